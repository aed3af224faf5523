"""Run a function in a fresh Python process of its own, and say how much memory that process took at its peak.

A process that has trained one model keeps the memory that its allocator took, so the next model seems to need as much.
It is a subprocess and not multiprocessing, because chapters have no main guard: "spawn" would run the chapter again.

Read along: chapters/07_lora_writer.py.
"""

import importlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NamedTuple

from gpt.storage.files import written_whole

ROOT = Path(__file__).resolve().parents[2]

# Linux's allocator keeps freed blocks of up to 32 MB for later, in pieces that may not fit: 200 MB in chapter 7.
# With this, blocks from 4 MB on go back at once, and the peak is what the function needs. It costs some time.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(4 * 2**20)}


class Outcome(NamedTuple):
    result: object
    peak: int | None    # bytes, see `peak_bytes`


class FreshProcessError(RuntimeError):
    """The function did not finish; __notes__ has the child's traceback."""


def in_fresh_process(function, **arguments):
    """Call function(**arguments) in a new Python process. What it prints, a progress bar too, appears here.

    Input: function, one that a module has under its own name, as those of gpt are (a chapter is a script and no
        module); arguments and result: what JSON can hold (a tuple arrives as a list). Output: Outcome
    Raises: ValueError for a function that a new process could not import; FreshProcessError with the last line of the
        child's traceback, or with its exit status where it left no answer; KeyboardInterrupt after Ctrl-C, which
        reaches both processes, once the child has stopped too
    """
    module, name = function.__module__, function.__qualname__
    if module == "__main__" or getattr(sys.modules[module], name, None) is not function:
        raise ValueError(f"{module}.{name} is no function that a module has under this name: a new process could not "
                         f"import it")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "call.json").write_text(json.dumps([module, name, arguments]), encoding="utf-8")
        answer = _answer_of_child(folder)
    if "interrupted" in answer:
        raise KeyboardInterrupt(answer["interrupted"])
    if "error" in answer:
        error = FreshProcessError(f"{module}.{name}, in a fresh process: {answer['error']}")
        error.add_note(answer["traceback"])
        raise error
    return Outcome(answer["result"], answer["peak"])


def _answer_of_child(folder):
    """Start a new process on the call in the folder, wait for its end and read the answer that `_serve` wrote."""
    sys.stdout.flush()
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    child = subprocess.Popen([sys.executable, "-X", "utf8", "-P", "-m", "gpt.cost.fresh_process", folder],
                             env=os.environ | GIVE_BACK | {"PYTHONPATH": paths})
    answer = {}
    try:
        child.wait()
    except KeyboardInterrupt:
        answer["interrupted"] = ""
        try:
            child.wait()    # the Ctrl-C has reached it too: it may have a checkpoint to save
        finally:
            child.kill()    # on a second Ctrl-C
    file = Path(folder, "answer.json")
    if file.exists():
        return answer | json.loads(file.read_text(encoding="utf-8"))
    died = f"exit status {child.returncode} and no answer: did memory run out, so that the system killed it?"
    return answer | {"error": died, "traceback": ""}


def peak_bytes():
    """The most memory that this process has held so far, in bytes; None where the system does not say (Windows).

    On a GPU it is what torch's allocator gave out there, else the process's own memory, Python and torch included. On
    Linux that is not getrusage's ru_maxrss, because a new process inherits that from the one which started it.
    """
    torch = sys.modules.get("torch")
    status = Path("/proc/self/status")
    if torch and torch.cuda.is_initialized():
        return sum(torch.cuda.max_memory_allocated(device) for device in range(torch.cuda.device_count()))
    if status.exists():
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
    if platform.system() == "Windows":
        return None
    import resource    # Windows has none

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else 1024 * peak


def _serve(folder):
    """The work of the new process: read the call, make it, write the answer."""
    module, name, arguments = json.loads(Path(folder, "call.json").read_text(encoding="utf-8"))
    try:
        result = getattr(importlib.import_module(module), name)(**arguments)
        answer = json.dumps({"result": result, "peak": peak_bytes()})
    except KeyboardInterrupt as error:
        answer = json.dumps({"interrupted": str(error)})
    except BaseException as error:
        last_line = traceback.format_exception_only(error)[-1].strip()
        answer = json.dumps({"error": last_line, "traceback": traceback.format_exc()})
    with written_whole(Path(folder, "answer.json")) as temporary:
        temporary.write_text(answer, encoding="utf-8")


if __name__ == "__main__":
    _serve(sys.argv[1])
