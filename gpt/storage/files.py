"""Files that are written whole or not at all, and files of tensors that are opened so that they can do no harm.

Read along: chapters/04_weights.py.
"""

import errno
import gzip
import hashlib
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open

NO_SAFETENSORS = {    # first bytes of files often mistaken for safetensors
    b"version https://git-lfs": "it is Git LFS's note of where the file is; `git lfs pull` brings the file",
    b"<": "it is a web page, probably a login or an error in place of the download",
    b"PK": "it is a .pth or .bin that torch.save wrote (load_book reads the one, load_huggingface the other), or a zip",
    b"\x80": "it is a pickle, as older versions of torch.save wrote it: load_book reads that of a GPT-2",
    b"\x1f\x8b": "it is compressed: unpack it with gunzip",
}
STREAMS = {"/dev/stdout": "1", "/dev/stderr": "2"}    # an open file's number, which /dev/fd/N gives too


@contextmanager
def written_whole(path):
    """Write to the temporary path that it yields; it takes the name `path` only when the block ends without error.

    A reader of `path` sees the old file or the new one, never half of one, even if the process is killed just then.
    A link stays a link, and the file that it names is replaced. A file that is replaced keeps its permissions. Into a
    pipe, a device such as /dev/null, or /dev/stdout the content is copied at the end.

        with written_whole("results.json") as temporary:
            temporary.write_text("{}", encoding="utf-8")

    Raises: IsADirectoryError if `path` is a folder; OSError with the path if the disk is full
    """
    path, found = Path(path), re.fullmatch(r"/(?:dev|proc/self)/fd/(\d+)", str(path))
    stream = found[1] if found else STREAMS.get(str(path))
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file in it, or move it out of the way")
    if stream or path.exists() and not path.is_file():
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder, path.name)
            sys.stdout.flush()
            target = os.dup(int(stream)) if stream else path
            with open(Path(folder, path.name), "rb") as whole, open(target, "wb") as out:
                shutil.copyfileobj(whole, out)
        return
    path = Path(os.path.realpath(path))
    # A folder, because safetensors writes a temporary file of its own beside its target.
    with tempfile.TemporaryDirectory(prefix=_prefix_in(path.parent), dir=path.parent) as folder, _saying_if_full(path):
        temporary = Path(folder, path.name)
        yield temporary
        _finish(temporary, path)
        os.replace(temporary, path)


def _prefix_in(folder):
    """Make the folder, remove what killed processes left in it, and give the prefix of a temporary folder's name.

    The prefix names process, container and machine, because elsewhere the process's number means nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers = Path("/proc/self/ns/pid")    # Linux only; on Windows nothing is removed
    here = f"{numbers.stat().st_ino if numbers.exists() else 0}-{platform.node()}"
    for left in folder.glob(".writing-*") if os.name == "posix" else ():
        found = re.fullmatch(rf"\.writing-(\d+)-{re.escape(here)}-\w+", left.name)
        if not found:
            continue
        with suppress(OSError):    # another user's process, or removed meanwhile
            try:
                os.kill(int(found[1]), 0)    # sends nothing
            except ProcessLookupError:    # it does not run any more
                if not (left / "old").is_dir():    # which `written_whole_folder` was replacing: keep it
                    shutil.rmtree(left)
    return f".writing-{os.getpid()}-{here}-"


def _finish(file, path):
    """Force a file's content to the disk, and give it the permissions of the file at `path`, or of any new one."""
    with open(file, "rb+") as opened:
        os.fsync(opened.fileno())
    os.umask(mask := os.umask(0o077))    # the mask can only be read by setting it
    os.chmod(file, path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~mask)    # what open() gives a new file


@contextmanager
def _saying_if_full(path):
    """Turn whatever is raised while the disk is full into an OSError with the path and the cause."""
    try:
        yield
    except Exception as error:
        if (getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
                or shutil.disk_usage(path.parent).free < 1 << 16):
            raise OSError(f"{path} could not be written: the disk is full, or your quota is used up") from error
        raise


@contextmanager
def written_whole_folder(path):
    """Write files, and no folders, into the temporary folder that it yields; it takes the name `path` afterwards.

    A folder that is at `path` already is replaced if it holds only files of the names that were written, as an older
    version does. It is never half old and half new. But Python cannot swap two folders in one step: if the process is
    killed in the instant between, there is none at `path`, and the old one stays beside it, in .writing-*/old.

    Raises: FileExistsError, with the names, for a folder that holds anything else, and for a file; it stays as it is;
        OSError with the path if the disk is full
    """
    path = Path(os.path.realpath(path))
    with tempfile.TemporaryDirectory(prefix=_prefix_in(path.parent), dir=path.parent) as place, _saying_if_full(path):
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
            shutil.copymode(path, new)
        try:
            if path.exists():
                os.replace(path, old)
            os.replace(new, path)
        except BaseException:    # Ctrl-C, too
            if old.exists() and not path.exists():
                os.replace(old, path)
            raise


class BadFile(ValueError):
    """A file that cannot be used. The message begins with its name and tells the user all that they need."""


@contextmanager
def naming_file(file):
    """Turn a ValueError about a file into a BadFile with the file's name in front."""
    try:
        yield
    except (ValueError, RecursionError) as error:    # RecursionError: JSON that nests too deeply
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
    if Path(file).exists() and not Path(file).is_file():
        raise ValueError("this is no file: give one in it, such as adapter.safetensors. (Whole folders are read by "
                         "load_huggingface and import_peft.)")
    try:
        with safe_open(file, framework="pt") as opened:
            names = opened.keys()
            if len(names) > 10_000:    # the largest GPT-2 has 772; to read a million takes minutes
                raise ValueError(f"it has {len(names):,} tensors: no model here has more than 10,000")
            return {name: opened.get_tensor(name) for name in names}, opened.metadata() or {}
    except SafetensorError as error:
        with open(file, "rb") as opened:
            beginning = opened.read(32)
        what = next((what for start, what in NO_SAFETENSORS.items() if beginning.startswith(start)), "it is damaged")
        raise ValueError(f"no safetensors file: {what} ({error})") from error


def sha256_of(tensors, text=""):
    """The sha256 of {name: tensor}, with shapes and dtypes, and of a text: 64 hexadecimal digits."""
    import torch    # see `read_state_dict`

    found = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        found.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
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
        what = str(error).partition("\n")[0]    # torch's advice follows, to run the program
        raise ValueError(f"refused by torch.load(weights_only=True): it is damaged, or holds more than tensors and "
                         f"could run a program. Save model.state_dict() alone ({what})") from error
    for key in ("model_state_dict", "state_dict", "model"):    # as training loops save it, beside the optimizer's
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(
            isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items()):
        raise ValueError("it is no state_dict, which is a dict of named tensors")
    return state
