"""Files that are written whole or not at all, and files of tensors that are opened so that they can do no harm.

Read along: chapters/04_weights.py.
"""

import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open


@contextmanager
def written_whole(path):
    """Write to the temporary path that it yields; it takes the name `path` only when the block ends without error.

    A reader of `path` sees the old file or the new one, never half of one, even if the process is killed just then.

        with written_whole("results.json") as temporary:
            temporary.write_text("{}", encoding="utf-8")
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        yield Path(name)
        _finish(name)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def _finish(file):
    """Force a file's content to the disk, before its final name appears there, and let everybody read it."""
    with open(file, "rb+") as opened:
        os.fsync(opened.fileno())
    os.chmod(file, 0o644)    # mkstemp and safetensors make files for their owner alone


@contextmanager
def written_whole_folder(path):
    """Write files, and no folders, into the temporary folder that it yields; it takes the name `path` afterwards.

    A folder that is at `path` already is replaced if it holds only files of the names that were written, as an older
    version does. It is never half old and half new. But no system swaps two folders in one step: if the process is
    killed in the instant between, there is none at `path`, and the old one stays beside it, in .NAME.*/old.

    Raises: FileExistsError, with the names, for a folder that holds anything else; it stays as it is
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as place:
        new, old = Path(place) / "new", Path(place) / "old"
        new.mkdir()
        yield new
        names = [file.name for file in new.iterdir()]
        for name in names:
            _finish(new / name)
        if path.exists():
            if not path.is_dir():
                raise FileExistsError(f"{path} is a file: give the name of a folder")
            others = sorted(file.name for file in path.iterdir() if file.name not in names or not file.is_file())
            if others:
                raise FileExistsError(f"{path} holds {', '.join(others[:5])}, which would be lost: give the name of a "
                                      f"folder that is new, empty, or an older one of this kind")
            os.replace(path, old)
        try:
            os.replace(new, path)
        except OSError:
            if old.exists():
                os.replace(old, path)
            raise


@contextmanager
def naming_file(file):
    """Turn a reader's error about damaged content into a ValueError with the file's name in front."""
    try:
        yield
    except (ValueError, RecursionError, SafetensorError) as error:    # RecursionError: JSON that nests too deeply
        raise ValueError(f"{file}: {error}") from error


def read_json(file):
    """The content of a JSON file. Raises ValueError with the file's name where it is damaged."""
    with naming_file(file):
        return json.loads(Path(file).read_text(encoding="utf-8"))


def read_safetensors(file):
    """A safetensors file -> {name: tensor}, {key: text}: the tensors and the metadata."""
    with safe_open(file, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata() or {}


def read_state_dict(file):
    """A .pth, of a state_dict alone or of one under "model_state_dict" beside an optimizer's -> {name: tensor}.

    A .pth is a pickle, and a pickle is a program. weights_only=True admits tensors and plain values, nothing else.
    """
    import torch    # here, because it takes a second, and code that only writes files does not need it

    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:    # a damaged file can make the unpickler stumble in any way
        raise ValueError("refused by torch.load(weights_only=True): it is damaged or holds more than tensors. "
                         f"To unpickle it in another way would run any program that it holds ({error})") from error
    if isinstance(state, dict):
        state = state.get("model_state_dict", state)
    if not isinstance(state, dict) or not all(
            isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items()):
        raise ValueError("it is no state_dict, which is a dict of named tensors")
    return state
