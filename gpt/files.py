"""Write a file whole or not at all.

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
