"""Whether a downloaded file is whole, without hashing 0.5 GB at every start.

Whole means: not empty, and of the size and checksum that gpt/assets.py knows (of the larger GPT-2 it knows neither).
What was found whole is noted in data/.verified.json with its size and time; a file that has changed is hashed again.
Read along: chapters/05_spam_classifier.py, after gpt/download.py
"""

import hashlib
import json

from gpt.assets import ASSETS, Asset, data_dir
from gpt.files import written_whole


def sha256_of(path) -> str:
    """The checksum of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fault(path, asset: Asset) -> str | None:
    """What is wrong with the file at `path`, in words, or None: its size, then its checksum, where known."""
    size = path.stat().st_size
    if size == 0 or asset.size not in (None, size):
        return f"it has {size:,} bytes" + (f" instead of {asset.size:,}" if asset.size else "")
    if asset.sha256 and sha256_of(path) != asset.sha256:
        return f"its sha256 is not {asset.sha256}"
    return None


def look_at(name: str) -> str | None:
    """What is wrong with data/<name>, in words, or None; hashed only if changed since it was found whole."""
    path = data_dir() / name
    if not path.is_file():
        return "it is not a file" if path.exists() else "it is not there"
    if _notes().get(name) == _mark(name):
        return None
    if (wrong := fault(path, ASSETS[name])) is None:
        _note(name)
    return wrong


def _note(name):
    """Write down that data/<name> is whole, with its size and time."""
    notes = _notes() | {name: _mark(name)}
    try:
        with written_whole(data_dir() / ".verified.json") as temporary:
            temporary.write_text(json.dumps(notes, indent=1), encoding="utf-8")
    except OSError:                         # a read-only folder: then files are hashed at every start
        pass


def _mark(name):
    status = (data_dir() / name).stat()
    return [status.st_size, status.st_mtime_ns, ASSETS[name].sha256]


def _notes():
    try:
        notes = json.loads((data_dir() / ".verified.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):           # none yet, or damaged: it only saves time
        return {}
    return notes if isinstance(notes, dict) else {}
