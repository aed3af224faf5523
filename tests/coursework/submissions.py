"""What the students handed in: folders and zip files with gpt/ in them, read without unpacking or running anything."""

import zipfile
from pathlib import PurePosixPath

from take_out import Problem

LARGE = 2 ** 20    # bytes: no source file of gpt/ comes near it


def submissions(folder):
    """{student: {"gpt/lora.py": its bytes} or the Problem with this submission}, in the order of their names.

    Of what a student handed in, the Python files under gpt/ are taken, however deep; all else is left where it is.

    Input: folder, with a sub-folder or a .zip for each student; or one submission itself, which is what Gradescope
        hands over
    Raises: Problem if there is no submission in the folder
    """
    if folder.is_file() or (folder / "gpt").is_dir():
        entries = [folder.absolute()]
    elif folder.is_dir():
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__")) and
                         (path.is_dir() or path.suffix.lower() == ".zip"))
    else:
        raise Problem(f"{folder} is not there")
    if not entries:
        raise Problem(f"{folder} has no submission in it: a sub-folder or a .zip for each student, with gpt/ inside")
    found = {}
    for entry in entries:
        name = entry.name if entry.is_dir() or entry.stem in found else entry.stem
        try:
            found[name] = chosen(_of_folder(entry) if entry.is_dir() else _of_zip(entry))
        except Problem as problem:
            found[name] = problem
    return found


def chosen(files):
    """Of a submission's files those under gpt/, whether that stands at its top or one folder down.

    Input: files, {path in the submission: function that reads it}
    """
    tops = {path.parts[:path.parts.index("gpt")] for path in files if "gpt" in path.parts[:-1][:2]}
    tops = {()} & tops or tops
    if len(tops) != 1:
        said = ", ".join(sorted("/".join((*top, "gpt")) for top in tops))
        raise Problem(f"more than one gpt/: {said}" if tops else "no gpt/ at its top or one folder down")
    top = PurePosixPath(*tops.pop())
    return {str(path.relative_to(top)): read() for path, read in files.items() if path.is_relative_to(top / "gpt")}


def _of_folder(folder):
    """The regular files of gpt/ at the top or one folder down; a link could lead anywhere, so none is followed."""
    files = {}
    for path in [*folder.glob("gpt/**/*.py"), *folder.glob("*/gpt/**/*.py")]:
        name = PurePosixPath(path.relative_to(folder).as_posix())
        linked = any((folder / part).is_symlink() for part in (name, *name.parents))
        if path.is_file() and not linked:
            files[name] = lambda path=path: _small(path.name, path.stat().st_size, path.read_bytes)
    return files


def _of_zip(file):
    def read(info):
        with zipfile.ZipFile(file) as archive:
            return archive.read(info)

    try:
        with zipfile.ZipFile(file) as archive:
            infos = [info for info in archive.infolist() if info.filename.endswith(".py")]
    except (OSError, zipfile.BadZipFile) as error:
        raise Problem(f"not a zip file that can be read: {error}") from None
    return {PurePosixPath(info.filename.replace("\\", "/")): lambda info=info: _small(
        info.filename, info.file_size, lambda: read(info)) for info in infos}


def _small(name, size, read):
    if size > LARGE:
        raise Problem(f"{name} is {size:,} bytes: no source file is that large")
    try:
        return read()
    except Exception as error:    # a damaged, encrypted or unknown kind of zip member costs this student alone
        raise Problem(f"{name} cannot be read: {error}") from None
