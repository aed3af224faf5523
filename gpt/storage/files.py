"""Files that are written whole or not at all, and files of tensors that are opened so that they can do no harm.

Read along: chapters/04_weights.py.
"""

import errno
import gzip
import hashlib
import json
import os
import platform
import shutil
import tempfile
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open

NO_SAFETENSORS = {    # how files begin that are taken for safetensors
    b"version https://git-lfs": "it is Git LFS's note of where the file is; `git lfs pull` brings the file",
    b"<": "it is a web page, probably a login or an error in place of the download",
    b"PK": "it is a .pth or .bin that torch.save wrote (load_book and load_huggingface read them), or a zip",
    b"\x80": "it is a pickle, as older versions of torch.save wrote",
    b"\x1f\x8b": "it is compressed: unpack it with gunzip",
}


@contextmanager
def written_whole(path):
    """Write to the temporary path that it yields; it takes the name `path` only when the block ends without error.

    A reader of `path` sees the old file or the new one, never half of one, even if the process is killed just then.
    A link stays a link, and the file that it names is replaced. A file that is replaced keeps its permissions. What is
    no regular file, such as a pipe or /dev/null, is itself yielded and written to.

        with written_whole("results.json") as temporary:
            temporary.write_text("{}", encoding="utf-8")

    Raises: IsADirectoryError if `path` is a folder; OSError with the path if the disk is full
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file in it, or move it out of the way")
    if path.exists() and not path.is_file():
        yield path
        return
    path = Path(os.path.realpath(path))
    handle, name = tempfile.mkstemp(prefix=_place_for(path), dir=path.parent)    # for its owner alone until it is whole
    os.close(handle)
    try:
        with _saying_if_full(path):
            yield Path(name)
            _finish(name, path)
            os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def _place_for(path):
    """Make the folder of `path`, and remove from it what processes that were killed left there.

    Output: how the name of a temporary file begins, with the number of this process in it
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = f".writing-{platform.node()}-"    # of processes on other machines nothing is known here
    for left in path.parent.glob(f"{mine}*") if os.name == "posix" else ():
        with suppress(ValueError, OSError):    # another program's name, another user's process, or removed meanwhile
            try:
                os.kill(int(left.name.removeprefix(mine).partition("-")[0]), 0)    # sends nothing
            except ProcessLookupError:    # it does not run any more
                if left.is_file():
                    left.unlink()
                elif not (left / "old").exists():    # of `written_whole_folder`
                    shutil.rmtree(left)
    return f"{mine}{os.getpid()}-"


def _finish(file, path):
    """Force a file's content to the disk, before the name `path` appears there, and give it that file's permissions."""
    with open(file, "rb+") as opened:
        os.fsync(opened.fileno())
    os.umask(mask := os.umask(0o077))    # the system tells the mask only to those who set another
    os.chmod(file, path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~mask)    # what open() gives a new file


@contextmanager
def _saying_if_full(path):
    """Turn whatever a library raises on a full disk into an OSError with the path and the cause."""
    try:
        yield
    except Exception as error:
        if (getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
                or shutil.disk_usage(path.parent).free < 1 << 16):
            raise OSError(f"{path} could not be written: the disk is full, or your share of it") from error
        raise


@contextmanager
def written_whole_folder(path):
    """Write files, and no folders, into the temporary folder that it yields; it takes the name `path` afterwards.

    A folder that is at `path` already is replaced if it holds only files of the names that were written, as an older
    version does. It is never half old and half new. But no system swaps two folders in one step: if the process is
    killed in the instant between, there is none at `path`, and the old one stays beside it, in .writing-*/old.

    Raises: FileExistsError, with the names, for a folder that holds anything else; it stays as it is
    """
    path = Path(os.path.realpath(path))
    prefix = _place_for(path)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=path.parent) as place, _saying_if_full(path):
        new, old = Path(place) / "new", Path(place) / "old"
        new.mkdir()
        yield new
        names = [file.name for file in new.iterdir()]
        for name in names:
            _finish(new / name, path / name)
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


class BadFile(ValueError):
    """A file that cannot be used. The message begins with its name and says all that whoever gave it needs to know."""


@contextmanager
def naming_file(file):
    """Turn a reader's error about damaged content into a BadFile with the file's name in front."""
    try:
        yield
    except (ValueError, RecursionError, SafetensorError) as error:    # RecursionError: JSON that nests too deeply
        raise BadFile(f"{file}: {error}") from error


def read_unpacked(path):
    """The bytes of a file, unpacked if gzip packed it. Raises: BadFile where it cannot be unpacked; OSError"""
    content = Path(path).read_bytes()
    try:
        return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    except (OSError, EOFError, zlib.error) as error:
        raise BadFile(f"{path}: gzip cannot unpack it, it is damaged or cut short: {error}") from error


def read_json(file):
    """The content of a JSON file. Raises BadFile where it is damaged."""
    with naming_file(file):
        return json.loads(Path(file).read_text(encoding="utf-8-sig"))    # without a byte-order mark


def read_safetensors(file):
    """A safetensors file -> {name: tensor}, {key: text}: the tensors and the metadata."""
    if Path(file).is_dir():
        raise ValueError("this is a folder: give the file in it, adapter.safetensors or model.safetensors (a folder of "
                         "PEFT's goes to import_peft)")
    try:
        with safe_open(file, framework="pt") as opened:
            names = opened.keys()
            if len(names) > 10_000:    # the largest GPT-2 with a LoRA everywhere has 1,500; a million take minutes
                raise ValueError(f"it has {len(names):,} tensors: no model here has more than 10,000")
            return {name: opened.get_tensor(name) for name in names}, opened.metadata() or {}
    except SafetensorError as error:
        with open(file, "rb") as opened:
            beginning = opened.read(32)
        what = next((what for sign, what in NO_SAFETENSORS.items() if beginning.startswith(sign)), "it is damaged")
        raise ValueError(f"no safetensors file: {what} ({error})") from error


def sha256_of(tensors, text=""):
    """The sha256 of {name: tensor}, with shapes and types of numbers, and of a text: 64 hexadecimal digits."""
    import torch    # see `read_state_dict`

    found = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return found.hexdigest()


def read_state_dict(file):
    """A .pth -> {name: tensor}: a state_dict, or a dict with one under "model_state_dict", "state_dict" or "model".

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
    for key in ("model_state_dict", "state_dict", "model"):    # as training loops save it, beside the optimizer's
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(
            isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items()):
        raise ValueError("it is no state_dict, which is a dict of named tensors")
    return state
