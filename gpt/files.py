"""Write a file, or a folder of files, whole or not at all.

Read along: chapters/04_weights.py.
"""

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path):
    """Write to the temporary path that is handed out; it takes the name `path` only when the block ends without error.

    Whoever reads `path` sees the old file or the new one, never half of one, whenever the process is killed or the
    power is cut.

        with written_whole("results.json") as temporary:
            temporary.write_text("{}", encoding="utf-8")
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        yield Path(name)
        with open(name, "rb+") as file:
            os.fsync(file.fileno())    # the content reaches the disk before the name does
        os.chmod(name, 0o644)          # mkstemp's files are for their owner alone
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def written_whole_folder(path):
    """Write files into the temporary folder that is handed out; it takes the name `path` if the block ends without
    error. There must be no folders in it.

    A folder that is at `path` already is replaced if it holds nothing but files of the names that were written: an
    older version. No system swaps two folders in one step, so for an instant there is none at `path`, or, if the
    process is killed just then, for good (the old one then lies beside it, in .NAME.*/old); but never one that is half
    old and half new.

    Raises: FileExistsError, with the names, for a folder that holds anything else; it stays as it is
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as place:
        new, old = Path(place) / "new", Path(place) / "old"
        new.mkdir()
        yield new
        names = sorted(file.name for file in new.iterdir())
        for name in names:
            with open(new / name, "rb+") as file:
                os.fsync(file.fileno())
            os.chmod(new / name, 0o644)    # safetensors writes files for their owner alone
        if path.exists():
            if not path.is_dir():
                raise FileExistsError(f"{path} is a file: give the name of a folder")
            if others := sorted(file.name for file in path.iterdir() if file.name not in names or not file.is_file()):
                raise FileExistsError(f"{path} holds {', '.join(others[:5])}, which would be lost: give the name of a "
                                      f"folder that is new, empty, or an older one of this kind")
            os.replace(path, old)
        try:
            os.replace(new, path)
        except OSError:
            if old.exists():
                os.replace(old, path)
            raise
