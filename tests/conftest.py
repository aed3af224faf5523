"""Puts the repository root on the path, names the fixtures that several test files share, and runs single exercises.

    python -m pytest --exercise E6.1     the tests of one exercise until one fails; the last line says what is wrong
    python -m pytest --hidden 7          other sizes and other random numbers, drawn from the seed 7: what grading runs

A test says which exercises it checks: @pytest.mark.exercise("E6.1", "E6.3"). The ids are those of exercise_table.py.
"""

import os
import random
import re
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

# gpt is imported where it is used, not here: a student's mistake in one module must not stop the tests of another.
ROOT = Path(__file__).resolve().parent.parent
if "PYTEST_XDIST_WORKER" in os.environ:    # one of several processes, each of which has one core
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Helpers are found from every folder of tests/.
sys.path[:0] = map(str, [ROOT, *(path for path in (ROOT / "tests").iterdir() if path.is_dir())])

from exercise_table import EXERCISES  # noqa: E402  (the path comes first)
from originals import unknown  # noqa: E402

TINY = ROOT / "tests" / "fixtures" / "openai_tiny"   # written by TensorFlow in OpenAI's layout
SLOW = {"chapters": "runs whole chapters, minutes in all; only with -m chapters",
        "museum": "runs each exercise's tests on the classic mistakes; only with -m museum",
        "peers": "compares with transformers and peft, where they are installed; only with -m peers"}


def modules_of_gpt():
    """All files of the library, as "gpt/lora.py", however deep. What reads them all is held against this."""
    found = {path.relative_to(ROOT).as_posix() for path in (ROOT / "gpt").rglob("*.py")}
    assert len(found) > 40, "gpt/ is not where it is looked for"
    return found


# Fixtures

@pytest.fixture
def sizes(pytestconfig):
    """B, T, C, H, D, V as in gpt/__init__.py; context and layers of `small_model`. With --hidden they are others."""
    return draw_sizes(pytestconfig.getoption("--hidden"))


def draw_sizes(seed):
    """Sizes that are all different, so that no two axes can be mistaken for each other; C = H D.

    With a seed, V, context and layers are at least as large as without: a token or a layer that a test names is there.
    """
    if seed is None:
        return SimpleNamespace(B=2, T=7, C=30, H=5, D=6, V=101, context=24, layers=3)
    draw = random.Random(seed).randint
    while True:
        H, D = draw(2, 8), draw(2, 9)
        found = dict(B=draw(2, 5), T=draw(6, 13), C=H * D, H=H, D=D, V=draw(103, 130), context=draw(25, 33))
        if len(set(found.values())) == len(found) and found["C"] not in (30, found["T"] + 1) and found["C"] > 16:
            return SimpleNamespace(**found, layers=draw(3, 4))


@pytest.fixture
def small_model(sizes, pytestconfig):
    """A GPT-2 of these sizes with the weights that the generator's seed gives: 0, or that of --hidden."""
    import torch

    from gpt.config import GPTConfig
    from gpt.model import GPTModel
    config = GPTConfig(vocab_size=sizes.V, context_length=sizes.context, emb_dim=sizes.C, n_heads=sizes.H,
                       n_layers=sizes.layers)
    return GPTModel(config, torch.Generator().manual_seed(pytestconfig.getoption("--hidden") or 0)).eval()


@pytest.fixture(autouse=True)
def ctrl_c():
    """Python's own reaction to Ctrl-C, even where a script runs these tests in the background and it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def hidden_numbers(pytestconfig):
    """With --hidden, a test that draws from the global generators starts at the hidden seed."""
    seed = pytestconfig.getoption("--hidden")
    if seed is not None:
        random.seed(seed)
        if "torch" in sys.modules:    # a test file that has not imported it draws nothing from it
            sys.modules["torch"].manual_seed(seed)


@pytest.fixture(autouse=True)
def who_multiplies():
    """A test that lets oneDNN multiply float32 (gpt/cost/precision.py) does not let it do so in the next test."""
    matmul = "torch" in sys.modules and sys.modules["torch"].backends.mkldnn.matmul
    before = matmul and matmul.fp32_precision
    yield
    if matmul:
        matmul.fp32_precision = before


@pytest.fixture
def numbers(pytestconfig):
    """numpy's generators, numbers(0), numbers(1), ...: each draws others, and all others again with --hidden."""
    from numpy.random import default_rng
    hidden = pytestconfig.getoption("--hidden")
    return lambda seed: default_rng(seed if hidden is None else [hidden, seed])


# Which tests run

def pytest_addoption(parser):
    group = parser.getgroup("exercises")
    group.addoption("--exercise", metavar="ID", type=str.upper,
                    help="run exactly the tests of this exercise, such as E6.1")
    group.addoption("--hidden", metavar="SEED", type=int, help="grading: other sizes and random numbers")


def pytest_configure(config):
    config.addinivalue_line("markers", "exercise(id, ...): checks these exercises; --exercise ID runs those of one")
    for name, meaning in SLOW.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
    wanted = config.getoption("--exercise")
    if wanted is not None and wanted not in EXERCISES:
        raise pytest.UsageError(unknown(wanted, EXERCISES))
    if wanted is not None and config.getoption("--hidden") is None:    # a learner: the first that fails, and briefly
        option = config.option
        option.maxfail = option.maxfail or 1
        option.tbstyle = "short" if option.tbstyle == "auto" else option.tbstyle


def marked(source):
    """The ids of all exercises that the tests in this source check."""
    return {name for ids in re.findall(r"mark\.exercise\(([^)]*)\)", source) for name in re.findall(r"E[\d.]+", ids)}


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """The whole suite runs on all cores, up to four, where pytest-xdist is installed; a part of it in one process."""
    option, cores = config.option, min(os.cpu_count() or 1, 4)
    part = option.exercise or option.markexpr or option.keyword or option.collectonly or option.usepdb
    worker = "PYTEST_XDIST_WORKER" in os.environ    # one of these processes itself, or a test's own pytest
    installed = getattr(option, "numprocesses", 0) is None    # and no -n on the command line
    if config.args == [str(ROOT)] and installed and cores > 1 and not part and not worker:
        option.numprocesses = cores
        option.dist = "load"                        # what xdist makes of -n
        option.tx = ["popen"] * cores


def pytest_ignore_collect(collection_path, config):
    """With --exercise, a test file without a test of it is not even imported; tests/peers only with -m peers."""
    wanted = config.getoption("--exercise")
    if collection_path.name == "peers" and config.getoption("-m") != "peers":
        return True
    if wanted is not None and collection_path.suffix == ".py":
        return wanted not in marked(collection_path.read_text(encoding="utf-8")) or None


def pytest_collection_modifyitems(session, config, items):
    """The exercise's tests alone, or all but the slow ones; pytest says how many tests were deselected."""
    wanted = config.getoption("--exercise")
    if wanted is not None:
        runs = [item for item in items if any(wanted in mark.args for mark in item.iter_markers("exercise"))]
        if not runs and not session.testsfailed:    # a file that cannot be imported counts as a failed test
            raise pytest.UsageError(f'exercise {wanted} has no test: none is marked @pytest.mark.exercise("{wanted}")')
    elif not config.getoption("-m"):
        runs = [item for item in items if not any(item.get_closest_marker(name) for name in SLOW)]
    else:
        return
    kept = set(runs)
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = runs


def pytest_sessionfinish(session):
    """A student's file that cannot be imported is a failed exercise, exit status 1, as a failed test is."""
    if session.config.getoption("--exercise") is not None and session.testsfailed:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure(config):
    """With --exercise, the last line on the screen says what is wrong: it is the first failing test's own sentence."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal and config.getoption("--exercise") is not None:
        first = next(iter([*terminal.stats.get("error", []), *terminal.stats.get("failed", [])]), None)
        if first:
            terminal.write_line(reason_of(first).removeprefix("AssertionError: "))


def reason_of(report):
    """Why a test failed, or a file could not be imported, in one line: the exception and its message's first line."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash:
        return crash.message.strip().partition("\n")[0]
    said = str(report.longrepr).replace(f"{ROOT}{os.sep}", "")
    lines = [line.removeprefix("E").strip() for line in said.strip().splitlines()] or [f"error in {report.when}"]
    places = [line for line in lines if line.startswith("File ")]    # of a syntax error
    return f"{places[-1]}: {lines[-1]}" if places else lines[-1]
