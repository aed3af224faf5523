"""Bring what is at a URL into a file, over connections that break off and from servers that lie.

Read along: chapters/05_spam_classifier.py. gpt/download.py knows what the file should be; here are only bytes.
Source: RFC 9110, section 14 (ranges).
"""

import queue
import re
import threading
import time
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

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
