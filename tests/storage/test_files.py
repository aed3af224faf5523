"""gpt/storage/files.py: a folder is written whole or not at all. (Single files: tests/story/test_checkpoint.py.)"""

import os

import pytest

from gpt.storage.files import written_whole_folder


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
        assert (tmp_path / "new" / "a").stat().st_mode & 0o777 == 0o644, "nobody but its writer can read the file"
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
