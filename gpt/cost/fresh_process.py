"""Run a function in a fresh Python process of its own, and say how much memory that process took at its peak.

A process that has trained one model keeps what its allocator took: what is trained next in it seems to need no less.
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
import threading
import traceback
from pathlib import Path
from typing import NamedTuple

from gpt.storage.files import written_whole

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 30.0    # seconds that a child has to finish its step after Ctrl-C

# Linux's allocator keeps freed blocks of up to 32 MB for the next one that asks, in pieces that may not fit: in one run
# of chapter 7 that was 200 MB nobody needed. With this, blocks from 4 MB on go back at once, and the peak is what the
# function needs. It costs some time, as every such block comes from the system anew.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(4 * 2**20)}


class Outcome(NamedTuple):
    result: object
    peak: int | None    # bytes, see `peak_bytes`


class OwnProcessError(RuntimeError):
    """The function did not come to its end; __notes__ has the traceback from over there."""


def in_own_process(function, **arguments):
    """function(**arguments) in a new Python process. What it prints, a progress bar too, is seen as if it ran here.

    Input: function, one that a module has under its own name, as those of gpt are (not a chapter's: a script is no
        module); arguments and result: what JSON can hold (a tuple arrives as a list)
    Output: Outcome
    Raises: ValueError for a function that a new process could not find; OwnProcessError with the last line of its
        traceback, or with what ended the process; KeyboardInterrupt after Ctrl-C, once it has stopped too
    """
    module, name = function.__module__, function.__qualname__
    if module == "__main__" or getattr(sys.modules[module], name, None) is not function:
        raise ValueError(f"{module}.{name} is no function that a module has under this name: a new process could not "
                         f"import it")
    with tempfile.TemporaryDirectory() as folder:
        call = Path(folder, "call.json")
        call.write_text(json.dumps([module, name, arguments]), encoding="utf-8")
        sys.stdout.flush()
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        child = subprocess.Popen([sys.executable, "-X", "utf8", "-P", "-m", "gpt.cost.fresh_process", folder],
                                 stdin=subprocess.PIPE, env=os.environ | GIVE_BACK | {"PYTHONPATH": paths})
        try:
            code, stopped = _wait(child)
        finally:
            child.stdin.close()
        answer = Path(folder, "answer.json")
        told = json.loads(answer.read_text(encoding="utf-8")) if answer.exists() else {}
    if stopped or told.get("interrupted"):
        raise KeyboardInterrupt(told["error"] if told.get("interrupted") else "")
    if "result" in told:
        return Outcome(told["result"], told["peak"])
    error = OwnProcessError(f"{module}.{name}, in a process of its own: {told.get('error') or _how_it_ended(code)}")
    error.add_note(told.get("traceback", ""))
    raise error


def _wait(child):
    """The exit status, and whether Ctrl-C was pressed here: it reaches both, and the child has PATIENCE to stop."""
    try:
        return child.wait(), False
    except KeyboardInterrupt:
        try:
            return child.wait(PATIENCE), True
        except (subprocess.TimeoutExpired, KeyboardInterrupt):    # it hangs, or Ctrl-C was pressed again
            child.kill()
            return child.wait(), True


def _how_it_ended(code):
    if code in (-9, 137):
        return "killed by signal 9, as systems do where memory runs out"
    return f"ended by signal {-code}" if code < 0 else f"ended with exit status {code} and no answer"


def peak_bytes():
    """The most memory that this process has held so far, in bytes; None where the system does not say (Windows).

    Where it uses a GPU: what torch's allocator had given out there. Else the process's own, Python and torch included.
    On Linux that is not getrusage's ru_maxrss: a new process begins with that of the process which started it.
    """
    torch, status = sys.modules.get("torch"), Path("/proc/self/status")
    if torch and torch.cuda.is_initialized():
        return sum(torch.cuda.max_memory_allocated(device) for device in range(torch.cuda.device_count()))
    if status.exists():
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
    if platform.system() == "Windows":
        return None
    import resource  # Windows has none

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else 1024 * peak


def _serve(folder):
    """What the new process does: read the call, make it, write the answer."""
    module, name, arguments = json.loads(Path(folder, "call.json").read_text(encoding="utf-8"))
    try:
        result = getattr(importlib.import_module(module), name)(**arguments)
        answer = json.dumps({"result": result, "peak": peak_bytes()})
    except BaseException as error:
        last = traceback.format_exception_only(error)[-1].strip()
        answer = json.dumps({"error": str(error) if isinstance(error, KeyboardInterrupt) else last,
                             "interrupted": isinstance(error, KeyboardInterrupt), "traceback": traceback.format_exc()})
    with written_whole(Path(folder, "answer.json")) as temporary:
        temporary.write_text(answer, encoding="utf-8")


def _end_with_the_parent():
    """Where the parent is killed, its end of the pipe closes: nobody would read the answer."""
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    _serve(sys.argv[1])
