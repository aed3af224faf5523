"""gpt/cost/fresh_process.py: results, peaks, errors and Ctrl-C of a function that runs in another process."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpt.cost import fresh_process
from gpt.cost.fresh_process import FreshProcessError, in_fresh_process, peak_bytes

HERE = Path(__file__).resolve().parent
not_on_windows = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
known = pytest.mark.skipif(peak_bytes() is None, reason="this system does not say how much a process held")


# What runs over there

def take(*sizes):
    """Blocks of so many megabytes, one after the other. A page that was never written would not be there."""
    kept = []
    for megabytes in sizes:
        block = bytearray(megabytes * 1_000_000)
        block[::4096] = bytes([1]) * len(block[::4096])
        kept.append(bytes(100_000))    # behind the block, so that a larger one does not fit into its hole
        del block


def take_one(megabytes):
    take(megabytes)


def take_many():
    take(31, *range(20, 31))


def say(words):
    print(words)
    print(words, file=sys.stderr)
    return [words, os.getcwd(), sys.stdout.encoding]


def fail(number):
    return 1 / number


def end(how):
    if how == "exit":
        os._exit(7)
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_ctrl_c(file, deaf=False):
    if deaf:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    Path(file).write_text(str(os.getpid()), encoding="utf-8")
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped after step 3") from None


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """A new process finds this module."""
    monkeypatch.setenv("PYTHONPATH", str(HERE))


# The tests

def test_the_result_is_that_of_the_function_called_here(capfd, tmp_path, monkeypatch):
    (tmp_path / "gpt.py").write_text("raise RuntimeError('the wrong gpt')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    words = "Gr\u00fc\u00dfe \U0001F600 \"and\n'so on"
    assert in_fresh_process(say, words=words).result == [words, os.getcwd(), "utf-8"], "another folder, or encoding"
    out, err = capfd.readouterr()
    assert words in out.replace("\r", "") and words in err.replace("\r", ""), "what it prints is not seen here"


def test_a_function_that_cannot_be_found_from_elsewhere_is_refused():
    here = type(sys)("__main__")    # as a chapter's functions say that they stand in
    exec("def mine(): pass", here.__dict__)
    for function in (here.mine, lambda: 1, Path.exists):
        with pytest.raises(ValueError, match="no function that a module has under this name"):
            in_fresh_process(function)


def test_what_json_cannot_hold_is_refused_before_anything_starts(monkeypatch):
    monkeypatch.setattr(fresh_process.subprocess, "Popen", None)
    with pytest.raises(TypeError, match="JSON"):
        in_fresh_process(say, words=object())


def test_an_error_there_is_one_here_with_its_last_line_and_its_traceback():
    with pytest.raises(FreshProcessError) as error:
        in_fresh_process(fail, number=0)
    assert str(error.value) == "test_fresh_process.fail, in a fresh process: ZeroDivisionError: division by zero"
    assert "return 1 / number" in error.value.__notes__[0], "where it happened is lost"


@pytest.mark.parametrize("how, told", [("exit", "exit status 7 and no answer"),
                                       pytest.param("kill", "exit status -9 .*memory", marks=not_on_windows)])
def test_a_process_that_dies_without_a_word_is_an_error_that_says_how(how, told):
    with pytest.raises(FreshProcessError, match=told):
        in_fresh_process(end, how=how)


@known
def test_the_peak_is_that_of_the_child_alone():
    block = bytearray(600_000_000)
    block[::4096] = bytes([1]) * len(block[::4096])
    small, large = (in_fresh_process(take_one, megabytes=size).peak for size in (1, 200))
    assert small < 500e6, "the memory of the process that starts it is in the peak"
    assert abs(large - small - 199e6) < 20e6, "the block is not in the peak, or something else is"


@known
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_what_is_given_back_is_not_counted_twice():
    one, many = in_fresh_process(take_one, megabytes=31).peak, in_fresh_process(take_many).peak
    assert many - one < 10e6, "the allocator keeps freed blocks"


def test_the_child_is_told_to_give_freed_memory_back():
    for name, value in fresh_process.GIVE_BACK.items():
        assert in_fresh_process(os.getenv, key=name).result == value, f"{name}: only a new process can take it up"


def test_a_system_that_does_not_say_gives_none(monkeypatch):
    monkeypatch.setattr(fresh_process.platform, "system", lambda: "Windows")
    monkeypatch.setattr(fresh_process.Path, "exists", lambda path: False)
    assert peak_bytes() is None


CALLER = """
import sys
sys.path[:0] = json_paths
from gpt.cost import fresh_process
from test_fresh_process import wait_for_ctrl_c
try:
    fresh_process.in_fresh_process(wait_for_ctrl_c, file=sys.argv[1], deaf=sys.argv[2] == "deaf")
except KeyboardInterrupt as stop:
    print("parent:", stop)
"""


def wait_for(condition, seconds=30):
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "it never came"
        time.sleep(0.02)
    return found


def is_there(pid):
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text() if Path("/proc/self").exists() \
            else os.kill(pid, 0) is None
    except OSError:
        return False


def start_caller(tmp_path, how):
    """A process that has called wait_for_ctrl_c in one of its own. Output: it, and the pid of the other"""
    code = CALLER.replace("json_paths", json.dumps([str(HERE.parents[1]), str(HERE)]))
    caller = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "pid"), how], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, encoding="utf-8", start_new_session=True,
                              preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    return caller, int(wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))


@not_on_windows
def test_ctrl_c_stops_both_processes_and_the_childs_last_words_arrive(tmp_path):
    caller, child = start_caller(tmp_path, "listens")
    os.killpg(caller.pid, signal.SIGINT)    # as a terminal does
    out, err = caller.communicate(timeout=30)
    assert out.strip() == "parent: stopped after step 3" and "Traceback" not in err, err
    wait_for(lambda: not is_there(child))


@not_on_windows
def test_a_second_ctrl_c_ends_a_child_that_does_not_listen(tmp_path):
    caller, child = start_caller(tmp_path, "deaf")
    os.killpg(caller.pid, signal.SIGINT)
    time.sleep(0.3)
    assert caller.poll() is None and is_there(child), "the first one leaves it time to save"
    os.killpg(caller.pid, signal.SIGINT)
    out, err = caller.communicate(timeout=30)
    assert out.strip() == "parent:" and "Traceback" not in err, err
    wait_for(lambda: not is_there(child))
