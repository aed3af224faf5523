"""What was handed in: what is taken, what is refused with which reason, and how much of it is read."""

import os
import sys
import tracemalloc
import zipfile

import pytest
from submissions import submissions
from take_out import Problem


def zipped(file, members, compression=zipfile.ZIP_DEFLATED, claimed=None):
    """A zip file of these members, {name: bytes}; claimed: the size that it says each has."""
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        for info in archive.infolist() if claimed else ():
            info.file_size = claimed


def test_whatever_lies_among_the_submissions_gets_a_row_that_says_what_to_hand_in(tmp_path):
    (tmp_path / "ann" / "gpt").mkdir(parents=True)
    (tmp_path / "ann" / "gpt" / "lora.py").write_bytes(b"1")
    zipped(tmp_path / "bob.zip", {"gpt/lora.py": b"2"})
    others = ["cat.tar.gz", "dan.tgz", "eve.rar", "fay.7z", "gus.ipynb", "lora.py"]
    for name in [*others, ".DS_Store", "__MACOSX"]:
        (tmp_path / name).write_bytes(b"3")
    found = submissions(tmp_path)
    assert list(found) == ["ann", "bob", *others]
    assert found["ann"] == {"gpt/lora.py": b"1"} and found["bob"] == {"gpt/lora.py": b"2"}
    for name in others:
        assert str(found[name]) == f"{name} is neither a folder nor a .zip: hand in one of them, with gpt/ in it"


def test_a_member_that_python_would_unpack_all_at_once_is_not_unpacked(tmp_path):
    pytest.importorskip("bz2")
    zipped(tmp_path / "ann.zip", {"gpt/lora.py": bytes(2 ** 26)}, zipfile.ZIP_BZIP2, claimed=1000)
    found, most = with_memory(tmp_path)
    assert "gpt/lora.py cannot be read: it is compressed in an unusual way" in str(found["ann"])
    assert most < 2 ** 23, f"{most:,} bytes of memory for a submission of {(tmp_path / 'ann.zip').stat().st_size:,}"


@pytest.mark.parametrize("members, claimed, complaint", [
    ({f"gpt/{number}.py": bytes(2 ** 20) for number in range(20)}, None, "have more than 4,194,304 bytes"),
    ({"gpt/lora.py": bytes(2 ** 26)}, None, "have more than 4,194,304 bytes"),
    ({"gpt/lora.py": bytes(2 ** 26)}, 1000, "gpt/lora.py cannot be read")])
def test_no_more_is_read_than_all_source_files_have_whatever_the_zip_says(tmp_path, members, claimed, complaint):
    zipped(tmp_path / "ann.zip", members, claimed=claimed)
    found, most = with_memory(tmp_path)
    assert isinstance(found["ann"], Problem) and complaint in str(found["ann"])
    assert most < 2 ** 24, f"{most:,} bytes of memory"


def with_memory(folder):
    """The submissions, and the most bytes that were in use while they were read."""
    tracemalloc.start()
    found = submissions(folder)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found, most


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text there")
def test_a_name_that_is_no_utf_8_can_be_written_into_the_table(tmp_path):
    for name in (b"\xff", b"\xfe.zip"):
        (tmp_path / os.fsdecode(name)).mkdir()
    names = list(submissions(tmp_path))
    assert names == [r"\xfe.zip", r"\xff"] and "".join(names).encode("utf-8")
