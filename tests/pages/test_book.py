"""chapters/book.py: what every chapter relies on, and what its reader sees."""

import json
import math
import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT

from gpt.attention import MultiHeadAttention
from gpt.classify import swap_head
from gpt.config import GPT2_SIZES
from gpt.cost import fresh_process
from gpt.download import DownloadError
from gpt.generate import generate
from gpt.model import GELU
from gpt.storage.files import BadFile

sys.path.insert(0, str(ROOT / "chapters"))
import book  # noqa: E402  (the path comes first)


@pytest.fixture
def start(monkeypatch):
    """Calls book.start as a chapter that was given these words on its command line."""
    def call(*words, flags=tuple(book.FLAGS), doc="6  A chapter", quick=None, full=None):
        monkeypatch.setattr(sys, "argv", ["06_chapter.py", *words])
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)
        return book.start(doc, quick or {}, full or {}, *flags)
    return call


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("GPT_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


# Flags

def test_quick_and_full_choose_the_settings_and_the_command_line_wins(start):
    settings = dict(quick=dict(epochs=2, rows=10), full=dict(epochs=6, rows=None))
    for words, expected in {(): (6, None), ("--quick",): (2, 10), ("--full",): (6, None)}.items():
        args = start(*words, **settings)
        assert (args.epochs, args.rows) == expected, f"{words}: only --quick makes a chapter quick"
    chapter_6 = dict(settings, flags=("--epochs", "--model"))
    assert start(**chapter_6).epochs == 6 and start("--quick", **chapter_6).epochs == 2
    assert start("--epochs", "9", **chapter_6).epochs == start("--quick", "--epochs", "9", **chapter_6).epochs == 9


@pytest.mark.parametrize("words, complaint", [
    (["--epoch-count", "3"], "unrecognized arguments: --epoch-count"),
    (["--qiuck"], "unrecognized arguments: --qiuck"),
    (["quick"], "unrecognized arguments: quick"),
    (["--epochs", "many"], "--epochs: invalid at_least_one value: 'many'"),
    (["--epochs", "0"], "--epochs: invalid at_least_one value: '0'"),
    (["--precision", "bf16"], "--precision: invalid choice: 'bf16'.*auto.*bfloat16"),
    (["--quick", "--full"], "not allowed with argument --quick"),
    (["--model", "125M"], "--model 125M: one of gpt2-small.*mini"),
    (["--quick", "--model", "125M"], "--model 125M"),
    (["--model", "gpt2"], "--model gpt2: one of"),
    (["--seed", "-1"], "--seed: invalid from_0_to_4_billion value: '-1'"),
    (["--seed", "99999999999999999999"], "--seed: invalid from_0_to_4_billion value"),
    (["--seed", "1.5"], "--seed: invalid from_0_to_4_billion value")])
def test_a_word_that_is_misspelled_stops_the_chapter_and_says_why(start, capsys, words, complaint):
    with pytest.raises(SystemExit) as stopped:
        start(*words)
    assert stopped.value.code == 2 and re.search(complaint, capsys.readouterr().err)


def test_a_flag_that_a_chapter_has_no_use_for_is_misspelled_too(start, capsys):
    with pytest.raises(SystemExit):
        start("--text", "hello", flags=("--model",))
    assert "unrecognized arguments: --text" in capsys.readouterr().err


@pytest.mark.parametrize("flags, words, complaint", [
    (["--csv", "--column"], ["--column", "text"], "--column has no meaning without --csv"),
    (["--csv", "--predict", "--text-column"], ["--text-column", "t"], "--text-column has no meaning without --csv or --predict"),
    (["--csv", "--label-column"], ["--label-column", "t"], "--label-column has no meaning without --csv"),
    (["--csv", "--leave-out-empty"], ["--leave-out-empty"], "--leave-out-empty has no meaning without --csv"),
    (["--predict", "--out"], ["--out", "o.csv"], "--out has no meaning without --predict"),
    (["--predict", "--adapter"], ["--adapter", "a"], "--adapter has no meaning without --predict"),
    (["--text", "--adapter"], ["--adapter", "a"], "--adapter has no meaning without --text"),
    (["--full", "--resume"], ["--resume"], "--resume has no meaning without --full"),
    (["--text", "--csv"], ["--text", "t", "--csv", "c"], "--csv and --text cannot be used together"),
    (["--predict", "--csv"], ["--predict", "p", "--csv", "c"], "--csv and --predict cannot be used together"),
    (["--method", "--seeds"], ["--seeds", "3"], "--seeds has no meaning without --method"),
    (["--text", "--predict"], ["--text", "t", "--predict", "p"], "--text and --predict cannot be used together")])
def test_a_flag_that_would_be_ignored_stops_the_chapter(start, capsys, flags, words, complaint):
    """07 --column text, without --csv, trained on the SMS messages and said nothing."""
    with pytest.raises(SystemExit) as stopped:
        start(*words, flags=flags)
    assert stopped.value.code == 2 and complaint in capsys.readouterr().err


def test_a_flag_whose_partner_the_chapter_does_not_have_needs_none(start):
    assert start("--resume", flags=["--resume", "--epochs"]).resume


@pytest.mark.skipif(os.name != "posix", reason="locales as Unix has them")
def test_a_text_on_the_command_line_is_read_as_utf_8_in_any_locale(start, capsys, monkeypatch):
    read = []
    monkeypatch.setattr("gpt.applications.own_data.load_classifier", lambda file: (None, None))
    monkeypatch.setattr(book, "classify", lambda model, texts, tokenizer, adapter: read.extend(texts) or [])
    for text in ("Grüße 你好", "Grüße 你好".encode().decode("ascii", "surrogateescape")):    # the second: LC_ALL=C
        monkeypatch.setattr(os, "fsencode", lambda text: text.encode("ascii", "surrogateescape"))
        book.answer(start("--text", text, "--adapter", "a"), None)
    assert read == ["Grüße 你好"] * 2


def test_help_is_the_chapters_own_text(start, capsys):
    with pytest.raises(SystemExit) as stopped:
        start("--help", doc="6  LoRA: 100 % of it\n\nRun: python x.py\nTime: 30 s")
    out = capsys.readouterr().out
    assert stopped.value.code == 0 and "6  LoRA: 100 % of it\n\nRun: python x.py\nTime: 30 s\n" in out, "reflowed?"
    for name in ["--quick", "--seed", "--device", *book.FLAGS]:
        assert name in out


@pytest.mark.parametrize("asked, name", [("124M", "gpt2-small (124M)"), ("355m", "gpt2-medium (355M)"),
                                         ("XL", "gpt2-xl (1558M)"), *((name, name) for name in GPT2_SIZES)])
def test_a_model_goes_by_its_name_or_a_part_of_it(start, asked, name):
    assert start("--full", "--model", asked).model == name
    assert start("--quick", "--model", asked).model == "mini", "--quick asks no site for weights"


def test_the_seed_fixes_torchs_random_numbers(start):
    draws = []
    for words in ([], ["--seed", "123"], ["--seed", "7"]):
        start(*words)
        draws.append(torch.rand(1).item())
    assert draws[0] == draws[1] != draws[2]


def test_a_notebook_is_quick_unless_chapter_flags_says_otherwise(start, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", SimpleNamespace())
    monkeypatch.delenv("CHAPTER_FLAGS", raising=False)
    args = start("-f", "/run/user/kernel-1.json")    # what Jupyter puts on the command line
    assert (args.chapter, args.seed, args.quick) == ("notebook", 123, True), "each cell would be another chapter"
    assert args.model == "mini", "a notebook would fetch 0.5 GB"
    monkeypatch.setenv("CHAPTER_FLAGS", "--model 124M --seed 7 --text 'two words'")
    args = start()
    assert (args.quick, args.model, args.seed, args.text) == (False, "gpt2-small (124M)", 7, "two words")


def test_a_run_has_a_folder_of_its_own(start, data):
    folders = [book.run_folder(start(*words)) for words in (
        ["--full"], ["--quick"], ["--full", "--seed", "7"], ["--full", "--model", "355M"],
        ["--full", "--weights", "random"])]
    assert len(set(folders)) == 5, "two different runs would overwrite each other's results"
    assert folders[0] == data / "runs" / "test_book" / "gpt2-small-default-full-seed123"
    assert folders[4].name == "gpt2-small-untrained-default-full-seed123"


# What a chapter prints

def test_show_prints_the_place_and_the_source_as_they_are(capsys):
    for thing, path in ((MultiHeadAttention.forward, "gpt/attention.py"), (swap_head, "gpt/classify.py"),
                        (generate, "gpt/generate.py"),
                        (GELU, "gpt/model.py")):
        book.show(thing)
        place, source = capsys.readouterr().out.split("\n", 1)
        name, line = place.split(":")
        assert name == path
        lines = (ROOT / path).read_text(encoding="utf-8").split("\n")[int(line) - 1:]
        shown = source.rstrip("\n").split("\n")
        indent = len(lines[0]) - len(lines[0].lstrip())
        assert shown == [line[indent:] for line in lines[:len(shown)]], f"{place} is not where this source stands"
        assert shown[0].startswith(("def ", "class ", "@")) and not lines[len(shown)], "cut short?"


@pytest.mark.parametrize("predicted, measured, tolerance", [
    (124_439_808, 124_439_808, 0.0), (0.0, 0.0, 0.0), (10.8, 10.9, 0.01), (-2.0, -2.1, 0.06), ([1, 2], [1, 2], 0.0),
    (True, True, 0.0), ("ham", "ham", 0.0)])
def test_a_prediction_that_holds_is_printed_beside_its_measurement(capsys, predicted, measured, tolerance):
    book.predict("it", predicted, measured, tolerance)
    expected = f"{predicted:,}" if type(predicted) is int else f"{predicted}"
    assert capsys.readouterr().out.startswith(f"it: predicted {expected.removesuffix('.0')}, measured ")


@pytest.mark.parametrize("predicted, measured, tolerance", [
    (124_439_808, 124_439_809, 0.0), (0.0, 1e-12, 0.0), (0.0, 1e-12, 0.5), (1.0, 1.105, 0.1), (1.0, 0.895, 0.1),
    (0.6931, math.nan, 0.5), (0.6931, math.inf, 0.5), ([1, 2], [1, 3], 0.5), (True, False, 1.0), ("ham", "spam", 1.0)])
def test_a_prediction_that_fails_stops_the_chapter(capsys, predicted, measured, tolerance):
    with pytest.raises(AssertionError, match=r"it: predicted .*, measured .*should differ"):
        book.predict("it", predicted, measured, tolerance)
    assert "it: predicted" in capsys.readouterr().out, "the reader sees both numbers before the chapter stops"


# ## 6.1 Small
# ## 6.10 Large

def test_a_section_is_the_heading_that_the_file_has_under_its_number(capsys, monkeypatch):
    book.section("6.1")    # of this file, a few lines above
    assert capsys.readouterr().out == "\n6.1 Small\n---------\n"
    monkeypatch.setitem(sys.modules, "ipykernel", SimpleNamespace())
    book.section("6.1")
    assert not capsys.readouterr().out, "a notebook and a page show the heading themselves"


def test_what_agrees_is_printed_with_its_largest_difference(capsys):
    book.agree("two ways", torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.25]), tolerance=0.5)
    assert capsys.readouterr().out == "two ways: largest difference 0.2\n"


@pytest.mark.parametrize("other", [1.0001, math.nan, math.inf])
def test_what_does_not_agree_stops_the_chapter(other):
    with pytest.raises(AssertionError, match="two ways: the largest difference is .*, above 1e-05"):
        book.agree("two ways", torch.tensor([1.0]), torch.tensor([other]))


# Several seeds

@pytest.fixture
def repeated(start, data, monkeypatch, capsys):
    """Calls book.repeat without training. Output: what was asked for, what was printed, and the results.json's"""
    def call(*words, method="LoRA, r = 16"):
        asked = []

        def records(name, *given, **options):
            asked.append((name, given, options))
            return [record_of_seed(seed) for seed in given[1]]

        monkeypatch.setattr("gpt.experiments.comparison.records_over_seeds", records)
        args = start("--method", method, *words, quick=dict(epochs=1, seeds=2), full=dict(epochs=None, seeds=5),
                     flags=("--model", "--method", "--seeds"))
        book.repeat(args)
        return asked, capsys.readouterr().out, {file.parent.name: json.loads(file.read_text(encoding="utf-8"))
                                                for file in (data / "runs" / "test_book").glob("*/results.json")}
    return call


def record_of_seed(seed):
    """Of four balanced messages the first `seed` are answered rightly, and so are the two others."""
    labels = [1, 1, 0, 0, 0, 0]
    spam = [0.9 if (label == 1) == (i < seed or i > 3) else 0.1 for i, label in enumerate(labels)]
    part = {"labels": labels, "spam": spam, "rows": [*range(6)], "n_balanced": 4}
    return {"seed": seed, "n_train": 9, "trainable_parameters": 5, "seconds_training": 1.0, "peak_memory_bytes": 7,
            "validation": part, "test": part}


def test_several_seeds_give_a_mean_with_its_interval_and_each_seeds_own_number(repeated):
    asked, printed, files = repeated("--model", "mini", "--seed", "2", "--seeds", "3")
    assert asked == [("LoRA, r = 16", ("balanced", [2, 3, 4], "mini", torch.device("cpu")),
                      {"epochs": None})]
    lines = printed.splitlines()
    reach = 4.303 * 0.25 * (1 / 3 + 0.2 / 0.8)**0.5
    assert lines[0] == "mini, LoRA, r = 16, seeds 2 to 4, balanced test: 4 messages (first seed)"
    assert lines[1] == f"  accuracy 75.0 -+ {100 * reach:.1f} %   each: 50.00%, 75.00%, 100.00%"
    assert "natural test: 6 messages" in lines[2] and "66.67%, 83.33%, 100.00%" in lines[3]
    (folder, found), = files.items()
    assert folder == "mini-default-full-seed2-to-4-LoRA-r-16", "a run with another method or seed would overwrite it"
    accuracy = found["results"]["balanced"]["LoRA, r = 16"]["accuracy"]
    assert (accuracy["values"], accuracy["mean"]) == ([0.5, 0.75, 1.0], 0.75) and accuracy["high"] > accuracy["low"]
    assert found | {"seeds": [2, 3, 4], "weights": "mini", "recipe": "default", "seed": 2} == found


def test_each_way_to_repeat_has_results_of_its_own(repeated, start):
    ways = [((), "head"), (("--seed", "2"), "head"), (("--seeds", "3"), "head"), (("--quick",), "head"),
            ((), "LoRA, r = 4"), ((), "LoRA, r = 16")]
    for words, method in ways:
        _, _, files = repeated("--model", "mini", "--seed", "1", "--seeds", "2", *words, method=method)
    assert len(files) == len(ways), "one way overwrites the results of another"
    assert not {book.run_folder(start(*words, "--model", "mini", "--seed", seed)).name for seed in "12"
                for words in ((), ("--quick",))} & files.keys(), "a single run would overwrite them"


def test_the_blogs_lora_is_repeated_on_the_blogs_messages(repeated):
    asked, printed, files = repeated("--model", "mini", "--seed", "1", "--seeds", "2", method="the blog's LoRA")
    assert asked[0][1][0] == "blog" and "natural" not in printed, "the blog's messages have one test"
    assert list(files["mini-default-full-seed1-to-2-the-blog-s-LoRA"]["results"]) == ["blog"]


def test_a_method_that_is_not_there_is_an_error_that_names_all(repeated):
    with pytest.raises(SystemExit, match="--method LoRA: there are majority; .*; LoRA, r = 16; the blog's LoRA"):
        repeated("--model", "mini", method="LoRA")


@pytest.mark.parametrize("number", ["1", "0", "11", "many"])
def test_an_interval_takes_2_to_10_seeds(start, capsys, number):
    with pytest.raises(SystemExit):
        start("--seeds", number)
    assert f"--seeds: invalid two_to_ten value: '{number}'" in capsys.readouterr().err


# Weights

def test_weights_that_cannot_be_had_are_replaced_by_mini_and_one_line_says_so(start, capsys, monkeypatch):
    def unreachable(name):
        if name != "mini":
            raise DownloadError("openaipublic: no route to host\nhuggingface.co: 403")
        return "mini's weights"

    monkeypatch.setattr(book, "load_gpt2", unreachable)
    args = start("--full", "--model", "124M")
    assert book.load_weights(args) == ("mini's weights", "mini")
    said = capsys.readouterr().out.splitlines()
    assert said == ["*** gpt2-small (124M) cannot be had here, so this run uses mini (by hand: data/README.md). ***"]
    assert book.run_folder(args).name.startswith("mini-"), "the results of mini would be filed as those of 124M"


def test_damaged_weights_are_an_error_and_not_replaced(start, monkeypatch):
    def damaged(name):
        if name != "mini":
            raise ValueError("model/wte: its checksum differs")

    monkeypatch.setattr(book, "load_gpt2", damaged)
    with pytest.raises(ValueError, match="checksum"):
        book.load_weights(start("--full"))


def test_random_weights_are_untrained_and_the_seeds_own(start, monkeypatch):
    monkeypatch.setattr(book, "load_gpt2", None)    # must not be called
    (one, name), (again, _), (other, _) = (book.load_weights(start("--quick", "--weights", "random", "--seed", seed))
                                           for seed in ("1", "1", "2"))
    assert name == "mini, untrained (seed 1)" and not one.training
    assert torch.equal(one.tok_emb.weight, again.tok_emb.weight)
    assert not torch.equal(one.tok_emb.weight, other.tok_emb.weight)
    assert math.isclose(one.tok_emb.weight.std().item(), 0.02, rel_tol=0.02)


def test_a_question_without_an_adapter_says_what_to_run_first(start, data):
    with pytest.raises(SystemExit, match="no adapter yet.*run chapters/06_lora_spam.py first"):
        book.answer(start("--text", "hello"), None)


@pytest.mark.parametrize("content, complaint", [(None, "No such file"), (b"not an adapter", "adapter")])
def test_an_adapter_that_cannot_be_read_is_one_line(tmp_path, content, complaint):
    file = tmp_path / "my adapter.safetensors"
    if content:
        file.write_bytes(content)
    command = [sys.executable, ROOT / "chapters" / "09_your_own_data.py", "--text", "hello", "--adapter", file]
    run = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert run.returncode == 1 and complaint in run.stderr and "my adapter" in run.stderr
    assert "Traceback" not in run.stderr and len(run.stderr.strip().splitlines()) == 1, run.stderr


def test_a_chapter_that_cannot_fetch_ends_with_the_reasons_and_no_traceback(start, capsys):
    start()
    with pytest.raises(SystemExit) as stopped:
        sys.excepthook(DownloadError, DownloadError("sms cannot be fetched:\n  archive.ics.uci.edu: 404"), None)
    assert stopped.value.code == 1 and capsys.readouterr().err == "\nsms cannot be fetched:\n  archive.ics.uci.edu: 404\n"


def test_a_mistake_in_the_code_keeps_its_traceback(start, capsys):
    start()
    try:
        raise ValueError("a student's own")
    except ValueError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    assert "Traceback" in capsys.readouterr().err, "whoever breaks gpt/ needs the line"


# Results

def test_results_are_written_whole_or_not_at_all(start, data, capsys):
    args = start("--quick", "--seed", "7")
    folder = book.run_folder(args)
    book.report(folder, args, test_accuracy=0.97, words="naïve")
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert results["test_accuracy"] == 0.97 and results["words"] == "naïve"
    assert {"chapter", "seed", "device", "torch"} <= results.keys() and results["seed"] == 7
    assert f"results: {folder / 'results.json'}" in capsys.readouterr().out
    with pytest.raises(TypeError):
        book.report(folder, args, test_accuracy=torch.zeros(1))
    assert json.loads((folder / "results.json").read_text(encoding="utf-8")) == results, "half a file took its place"
    assert [path.name for path in folder.iterdir()] == ["results.json"]


def test_figures_are_written_whole_or_not_at_all(data, capsys):
    def savefig(file, format, dpi):
        file.write_bytes(b"half of it" if fail else b"a picture")
        if fail:
            raise OSError("no space left on device")

    for fail in (False, True):
        try:
            book.figure(SimpleNamespace(savefig=savefig), data, "06_losses")
        except OSError:
            assert fail
    assert {path.name: path.read_bytes() for path in data.iterdir()} == {"06_losses.png": b"a picture"}
    assert capsys.readouterr().out == f"figure: {data / '06_losses.png'}\n"


def test_peak_memory_is_in_bytes():
    if os.name != "nt":
        model_and_torch = book.peak_memory(torch.device("cpu"))
        assert 1e8 < model_and_torch < 1e11, "kilobytes on Linux, bytes on macOS"


def test_the_peak_of_a_chapter_is_the_one_that_a_fresh_process_tells(monkeypatch):
    monkeypatch.setattr(fresh_process, "peak_bytes", lambda: 7)
    assert book.peak_memory(torch.device("cpu")) == 7, "two figures of one name"
    monkeypatch.setattr(fresh_process, "peak_bytes", lambda: None)
    assert book.peak_memory(torch.device("cpu")) is None, "a system that does not say"
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5)
    assert book.peak_memory(torch.device("cuda")) == 5, "on a GPU it is the allocator's"


# A chapter as a process

CHAPTER = f'''"""0  A chapter that trains"""
import sys, time
sys.path[:0] = [{str(ROOT / "chapters")!r}, {str(ROOT / "tests" / "story")!r}]
from book import run_folder, start
from tiny_run import finish, new_run
args = start(__doc__, {{}}, {{}}, "--resume")

def look(progress):
    print("step", progress.step, flush=True)
    time.sleep(0 if args.resume else 0.2)

finish(new_run(run_folder(args) / "checkpoint.pt", resume=args.resume, every=3600), after_step=look)
print("done")
'''


@pytest.mark.skipif(os.name == "nt", reason="a process cannot be sent Ctrl-C there")
def test_ctrl_c_stops_a_chapter_with_what_to_type_and_that_is_true(tmp_path):
    chapter = tmp_path / "00_chapter.py"
    chapter.write_text(CHAPTER, encoding="utf-8")
    command, environment = [sys.executable, str(chapter)], dict(os.environ, GPT_DATA_DIR=str(tmp_path))
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", env=environment,
                           preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    while run.stdout.readline() != "step 2\n":
        assert run.poll() is None, run.stderr.read()
    run.send_signal(signal.SIGINT)
    rest, said = run.communicate()
    last = int((rest.split() or ["2"])[-1])
    file = tmp_path / "runs" / "00_chapter" / "mini-default-full-seed123" / "checkpoint.pt"
    assert said == f"\nstopped after step {last}: the same command with --resume goes on from {file}\n", "a traceback?"
    assert run.returncode == 130, "a shell script would go on as if nothing had happened"
    resumed = subprocess.run([*command, "--resume"], capture_output=True, encoding="utf-8", env=environment, check=True)
    assert resumed.stdout.splitlines()[0] == f"step {last + 1}" and resumed.stdout.endswith("done\n")


def test_an_error_in_a_chapter_is_shown_as_python_shows_it_and_ctrl_c_is_not(start, capsys):
    start()
    with pytest.raises(SystemExit) as stopped:
        sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert stopped.value.code == 130 and capsys.readouterr().err == "\nstopped\n"
    sys.excepthook(ValueError, ValueError("its checksum differs"), None)
    assert "ValueError: its checksum differs" in capsys.readouterr().err


def test_importing_the_book_needs_no_screen_and_finds_gpt():
    environment = {name: value for name, value in os.environ.items() if name not in ("MPLBACKEND", "PYTHONPATH")}
    script = f"import sys; sys.path.insert(0, {str(ROOT / 'chapters')!r}); import book, gpt.plots, matplotlib; " \
             f"print(matplotlib.get_backend())"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", env=environment, cwd="/")
    assert run.stdout.strip().lower() == "agg", run.stderr


@pytest.mark.parametrize("error", [BadFile("bad.csv: no column is named text"), FloatingPointError("the loss is nan"),
                                   OSError("the disk is full"), ValueError("this is another error")])
def test_what_the_reader_can_help_is_one_line(start, capsys, error):
    start()
    if isinstance(error, BadFile) or not isinstance(error, ValueError):
        with pytest.raises(SystemExit) as stopped:
            sys.excepthook(type(error), error, None)
        assert stopped.value.code == 1 and capsys.readouterr().err == f"\n{error}\n"
    else:
        sys.excepthook(type(error), error, None)
        assert capsys.readouterr().err == f"ValueError: {error}\n", "a mistake in the code keeps its traceback"


def test_where_nothing_may_be_written_the_way_out_is_said(start, capsys):
    start()
    with pytest.raises(SystemExit):
        sys.excepthook(PermissionError, PermissionError(13, "Permission denied", str(book.data_dir() / "runs")), None)
    assert "runs' (GPT_DATA_DIR can name another folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        sys.excepthook(PermissionError, PermissionError(13, "Permission denied", "/elsewhere/t.csv"), None)
    assert "GPT_DATA_DIR" not in capsys.readouterr().err
