"""What the students handed in: folders and zip files with gpt/ in them, read without unpacking or running anything.

No more than LARGE bytes of a student's are held in memory, whatever a zip file says of its sizes.
"""

import os
import zipfile
from functools import partial
from pathlib import PurePosixPath

from take_out import Problem

LARGE = 2 ** 22    # bytes: all source files of gpt/ together have a tenth of it


def submissions(folder):
    """{student: {"gpt/lora.py": its bytes} or the Problem with this submission}, in the order of their names.

    Of what a student handed in, the Python files under gpt/ are taken, however deep; all else is left where it is.
    What is neither a folder nor a .zip is a Problem, so that it gets a row. Only hidden files and names that begin with
    __ are passed over.

    Input: folder, with a sub-folder or a .zip for each student; or one submission itself, which is what Gradescope
        hands over
    Raises: Problem if there is no submission in the folder
    """
    if folder.is_file() or (folder / "gpt").is_dir():
        entries = [folder.absolute()]
    elif folder.is_dir():
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__")))
    else:
        raise Problem(f"{folder} is not there")
    if not entries:
        raise Problem(f"{folder} has no submission in it: a sub-folder or a .zip for each student, with gpt/ inside")
    found = {}
    for entry in entries:
        zipped = entry.is_file() and entry.suffix.lower() == ".zip"
        short, long = (os.fsencode(name).decode("utf-8", "backslashreplace") for name in (entry.stem, entry.name))
        name = short if zipped and short not in found else long
        try:
            if not zipped and not entry.is_dir():
                raise Problem(f"{long} is neither a folder nor a .zip: hand in one of them, with gpt/ in it")
            found[name] = _of_folder(entry) if entry.is_dir() else _of_zip(entry)
        except Problem as problem:
            found[name] = problem
        except OSError as error:
            found[name] = Problem(f"cannot be read: {error}")
    return found


def chosen(files):
    """The files under gpt/, which is at the top of the submission or one folder down: {name: bytes}.

    Input: files, {path in the submission: function(size) that reads up to size bytes of it}
    """
    tops = {path.parts[:path.parts.index("gpt")] for path in files if "gpt" in path.parts[:-1][:2]}
    tops = {()} & tops or tops
    if len(tops) != 1:
        said = ", ".join(sorted("/".join((*top, "gpt")) for top in tops))
        raise Problem(f"more than one gpt/: {said}" if tops else "no gpt/ at its top or one folder down")
    top = PurePosixPath(*tops.pop())
    found, left = {}, LARGE
    for path, read in files.items():
        if path.is_relative_to(top / "gpt"):
            try:
                content = read(left + 1)
            except Exception as error:    # a damaged or encrypted zip member costs this student alone
                raise Problem(f"{path} cannot be read: {error}") from None
            found[str(path.relative_to(top))], left = content, left - len(content)
            if left < 0:
                raise Problem(f"the Python files in its gpt/ have more than {LARGE:,} bytes: is there data in them?")
    return found


def _of_folder(folder):
    """The regular files of gpt/ at the top or one folder down; a link could lead anywhere, so none is followed."""
    files = {}
    for path in [*folder.glob("gpt/**/*.py"), *folder.glob("*/gpt/**/*.py")]:
        name = PurePosixPath(path.relative_to(folder).as_posix())
        linked = any((folder / part).is_symlink() for part in (name, *name.parents))
        if path.is_file() and not linked:
            files[name] = partial(_read_file, path)
    return chosen(files)


def _read_file(path, size):
    with open(path, "rb") as file:
        return file.read(size)


def _of_zip(file):
    try:
        archive = zipfile.ZipFile(file)
    except Exception as error:    # zipfile raises many kinds for a damaged file
        raise Problem(f"not a zip file that can be read: {error}") from None
    with archive:
        return chosen({PurePosixPath(info.filename.replace("\\", "/")): partial(_read_member, archive, info)
                       for info in archive.infolist() if info.filename.endswith(".py")})


def _read_member(archive, info, size):
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):    # of others Python unpacks all at once
        raise Problem("it is compressed in an unusual way: make the .zip anew with the usual one, deflate")
    with archive.open(info) as member:
        return member.read(size)
