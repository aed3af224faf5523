"""gpt/storage/files.py: files and folders that are written whole or not at all, and files that are something else.

More on single files: tests/story/test_checkpoint.py.
"""

import errno
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from gpt.storage.files import naming_file, read_safetensors, read_state_dict, written_whole, written_whole_folder

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
unix = pytest.mark.skipif(os.name != "posix", reason="links, pipes and permissions as Unix has them")


def write(path, **files):
    with written_whole_folder(path) as folder:
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")


def content(path):
    return {file.name: file.read_text(encoding="utf-8") for file in path.iterdir()}


def test_a_folder_appears_with_all_its_files(tmp_path):
    with written_whole_folder(tmp_path / "runs" / "my folder") as folder:
        (folder / "a").write_text("1", encoding="utf-8")
        assert not (tmp_path / "runs" / "my folder").exists(), "it is there before it is whole"
    assert content(tmp_path / "runs" / "my folder") == {"a": "1"}
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["my folder"], "something temporary is left"


def test_a_folder_is_as_open_to_others_as_any(tmp_path):
    with written_whole_folder(tmp_path / "new") as folder:
        (folder / "a").touch(mode=0o600)    # as safetensors writes its files
    if os.name == "posix":
        os.umask(mask := os.umask(0))
        assert (tmp_path / "new" / "a").stat().st_mode & 0o777 == 0o666 & ~mask, "nobody else can read the file"
    (tmp_path / "usual").mkdir()
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode, "temporary folders are private"


@pytest.mark.parametrize("interruption", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [None, {"a": "old"}])
def test_an_interruption_leaves_what_was_there(tmp_path, interruption, before):
    path = tmp_path / "folder"
    if before:
        write(path, **before)
    with pytest.raises(interruption), written_whole_folder(path) as folder:
        (folder / "a").write_text("half", encoding="utf-8")
        raise interruption
    assert [content(file) for file in tmp_path.iterdir()] == ([before] if before else [])


@pytest.mark.parametrize("before", [{}, {"a": "old"}, {"a": "old", "b": "old"}])
def test_an_older_version_or_an_empty_folder_is_replaced(tmp_path, before):
    (tmp_path / "folder").mkdir()
    for name, text in before.items():
        (tmp_path / "folder" / name).write_text(text, encoding="utf-8")
    write(tmp_path / "folder", a="new", b="new")
    assert content(tmp_path / "folder") == {"a": "new", "b": "new"} and len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_holds_anything_else_stays_as_it_is(tmp_path):
    write(tmp_path / "folder", a="old", letters="kept")
    with pytest.raises(FileExistsError, match="folder holds letters, which would be lost"):
        write(tmp_path / "folder", a="new", b="new")
    assert content(tmp_path / "folder") == {"a": "old", "letters": "kept"} and len(list(tmp_path.iterdir())) == 1


def test_a_file_of_that_name_stays(tmp_path):
    (tmp_path / "folder").write_text("a file", encoding="utf-8")
    with pytest.raises(FileExistsError, match="is a file: give the name of a folder"):
        write(tmp_path / "folder", a="new")
    assert (tmp_path / "folder").read_text(encoding="utf-8") == "a file"


def test_a_folder_of_a_file_s_name_is_not_lost(tmp_path):
    (tmp_path / "folder" / "a").mkdir(parents=True)
    (tmp_path / "folder" / "a" / "letters").write_text("kept", encoding="utf-8")
    with pytest.raises(FileExistsError, match="folder holds a, which would be lost"):
        write(tmp_path / "folder", a="new")
    assert (tmp_path / "folder" / "a" / "letters").read_text(encoding="utf-8") == "kept"


def test_the_old_folder_comes_back_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    write(tmp_path / "folder", a="old")
    replace = os.replace

    def fails_for_new(source, target):
        if source.name == "new":
            raise PermissionError("another program has it open")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails_for_new)
    with pytest.raises(PermissionError):
        write(tmp_path / "folder", a="new")
    assert content(tmp_path / "folder") == {"a": "old"}, "the old one was lost with the temporary folder"


# What stands at the path

def put(path, text="new"):
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@unix
def test_a_link_stays_a_link_and_its_file_is_replaced(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "target").write_text("old", encoding="utf-8")
    (tmp_path / "link").symlink_to("elsewhere/target")
    (tmp_path / "second").symlink_to("link")
    put(tmp_path / "second")
    assert (tmp_path / "second").is_symlink() and (tmp_path / "link").is_symlink(), "the link became a file"
    assert (tmp_path / "elsewhere" / "target").read_text(encoding="utf-8") == "new"
    (tmp_path / "dangling").symlink_to("elsewhere/not yet")
    put(tmp_path / "dangling")
    assert (tmp_path / "elsewhere" / "not yet").read_text(encoding="utf-8") == "new"
    write(tmp_path / "folder", a="old")
    (tmp_path / "to folder").symlink_to("folder")
    write(tmp_path / "to folder", a="new")
    assert (tmp_path / "to folder").is_symlink() and content(tmp_path / "folder") == {"a": "new"}


@unix
def test_a_pipe_gets_what_is_written_and_stays_a_pipe(tmp_path):
    """safetensors renames a temporary file of its own: given the pipe itself it would put a file in its place."""
    os.mkfifo(tmp_path / "pipe")
    for write_it in (lambda path: path.write_bytes(b"new"), lambda path: save_file({"a": torch.ones(3)}, path)):
        got = []
        reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
        reader.start()
        with written_whole(tmp_path / "pipe") as temporary:
            write_it(temporary)
        reader.join(10)
        assert len(got[0]) > 2 and stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


@unix
@pytest.mark.parametrize("target", ["/dev/stdout", "/dev/fd/1"])
@pytest.mark.parametrize("mode", ["w", "a"])
def test_what_goes_to_stdout_stands_between_what_is_printed(tmp_path, target, mode):
    """Where stdout is a file, /dev/stdout names that file, and replacing it would lose what the shell wrote to it."""
    script = (f"import sys; sys.path.insert(0, {ROOT!r})\n"
              f"from gpt.storage.files import written_whole\n"
              f"print('before')\n"
              f"with written_whole({target!r}) as temporary:\n"
              f"    temporary.write_text('content\\n')\n"
              f"print('after')\n")
    (tmp_path / "all").write_text("old\n")
    with open(tmp_path / "all", mode) as out:
        subprocess.run([sys.executable, "-c", script], stdout=out, check=True)
    assert (tmp_path / "all").read_text() == ("old\n" if mode == "a" else "") + "before\ncontent\nafter\n"


@unix
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_the_old_file_or_of_any_new_one(tmp_path, mask):
    for mode in (0o600, 0o640, 0o666):
        (tmp_path / f"{mode}").touch()
        os.chmod(tmp_path / f"{mode}", mode)
    before = os.umask(mask)
    try:
        for mode in (0o600, 0o640, 0o666):
            put(tmp_path / f"{mode}")
            assert stat.S_IMODE((tmp_path / f"{mode}").stat().st_mode) == mode, "a private file is readable for all"
        with written_whole(tmp_path / "tensors") as temporary:
            save_file({"a": torch.zeros(1)}, temporary)
            assert stat.S_IMODE(temporary.parent.stat().st_mode) == 0o700, "while it grows, others could read it"
        write(tmp_path / "folder", a="new")
        for file in (tmp_path / "tensors", tmp_path / "folder" / "a"):
            assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask
        assert os.umask(mask) == mask, "asking for the mask has changed it"
    finally:
        os.umask(before)


def test_a_folder_in_the_way_is_named_before_anything_is_computed(tmp_path):
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(IsADirectoryError, match="out.csv is a folder"), written_whole(tmp_path / "out.csv"):
        pytest.fail("the work was done, and then thrown away")


def test_a_name_may_be_as_long_as_the_system_allows(tmp_path):
    put(tmp_path / ("n" * 245 + ".csv"))
    assert [len(path.name) for path in tmp_path.iterdir()] == [249]


# Full disks, and processes that were killed

@pytest.mark.parametrize("error", [
    OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EDQUOT, "Disk quota exceeded"),
    RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")])
def test_whatever_a_library_says_of_a_full_disk_names_file_and_cause(tmp_path, error):
    for writer in (written_whole, written_whole_folder):
        with pytest.raises(OSError, match=r"adapter could not be written: the disk is full") as raised:
            with writer(tmp_path / "adapter"):
                raise error
        assert "\n" not in str(raised.value) and list(tmp_path.iterdir()) == []


def test_an_error_that_does_not_say_so_on_a_disk_without_room(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    with pytest.raises(OSError, match="the disk is full"), written_whole(tmp_path / "checkpoint.pt"):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 268160 vs 268048")


@unix
def test_what_a_killed_process_left_goes_when_the_next_one_writes_and_what_a_living_one_writes_stays(tmp_path):
    script = ("import os, sys; sys.path.insert(0, {root!r})\n"
              "from gpt.storage.files import written_whole, written_whole_folder\n"
              "with written_whole({file!r}), written_whole_folder({folder!r}):\n"
              "    os.kill(os.getpid(), 9)\n")
    for _ in range(2):
        subprocess.run([sys.executable, "-c", script.format(
            root=ROOT, file=str(tmp_path / "file"), folder=str(tmp_path / "folder"))], check=False)
    left = list(tmp_path.iterdir())
    assert len(left) == 2, "the second process has not removed what the first one left"
    number, of_others = re.match(r"\.writing-(\d+)-", left[0].name)[1], []
    for name in ("notes", f"{number}-1-{platform.node()}-abc", f"{number}-0-another.machine-abc"):
        of_others.append(tmp_path / f".writing-{name}")    # of another container, of another machine
        of_others[-1].mkdir()
    with written_whole(tmp_path / "slow") as temporary:
        put(tmp_path / "quick")
        temporary.write_text("slow")    # its folder is there
    assert sorted(tmp_path.iterdir()) == sorted([*of_others, tmp_path / "quick", tmp_path / "slow"])


@unix
def test_what_safetensors_was_writing_when_it_was_killed_goes_too(tmp_path):
    script = (f"import sys; sys.path.insert(0, {ROOT!r})\n"
              f"from gpt.storage.files import written_whole\n"
              f"with written_whole({str(tmp_path / 'file')!r}) as temporary:\n"
              f"    (temporary.parent / '.tmpAbCdEf').write_text('half')\n"
              f"    import os; os.kill(os.getpid(), 9)\n")
    subprocess.run([sys.executable, "-c", script], check=False)
    assert list(tmp_path.glob(".writing-*/.tmpAbCdEf"))
    put(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@unix
def test_a_private_folder_stays_private(tmp_path):
    write(tmp_path / "folder", a="old")
    os.chmod(tmp_path / "folder", 0o700)
    write(tmp_path / "folder", a="new")
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o700


# Files that are something else

@pytest.mark.parametrize("content, cause", [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 548105171\n", "git lfs pull"),
    (b"<!DOCTYPE html><html>", "a web page"), (b"PK\x03\x04" + b"0" * 60, "torch.save"), (b"\x80\x02}q\x00.", "a pickle"),
    (b"\x1f\x8b\x08\x00" + b"0" * 40, "compressed"), (b"", "no safetensors file"), (b"text", "no safetensors file")])
def test_a_file_of_another_kind_is_called_by_its_name(tmp_path, content, cause):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="model.safetensors: no safetensors file") as raised:
        with naming_file(tmp_path / "model.safetensors"):
            read_safetensors(tmp_path / "model.safetensors")
    assert cause in str(raised.value)


def test_a_folder_is_no_file_of_tensors(tmp_path):
    with pytest.raises(ValueError, match="this is no file: give one in it, such as adapter.safetensors"):
        read_safetensors(tmp_path)


def test_a_million_tensors_are_not_read_one_by_one(tmp_path):
    save_file({str(i): torch.zeros(0) for i in range(10_001)}, tmp_path / "many.safetensors")
    with pytest.raises(ValueError, match="it has 10,001 tensors: no model here has more than 10,000"):
        read_safetensors(tmp_path / "many.safetensors")


@pytest.mark.parametrize("key", ["model_state_dict", "state_dict", "model"])
def test_weights_are_found_beside_an_optimizer(tmp_path, key):
    torch.save({key: {"a": torch.ones(2)}, "epoch": 3}, tmp_path / "run.pth")
    assert read_state_dict(tmp_path / "run.pth")["a"].tolist() == [1, 1]
