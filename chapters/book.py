"""What every chapter needs and no chapter teaches: flags, seed, device, headings, predictions, figures.

Importing it puts the repository root on the path, so that a chapter finds gpt/ from whatever directory it is run.
"""

import argparse
import inspect
import json
import os
import platform
import re
import shlex
import sys
import textwrap
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("MPLBACKEND", "Agg")    # figures go to files: no chapter needs a screen

import torch  # noqa: E402  (the path and the backend come first)

from gpt.classify import classify  # noqa: E402
from gpt.config import GPT2_SIZES  # noqa: E402
from gpt.cost.precision import TYPES, choose_precision, float32_by_onednn  # noqa: E402
from gpt.download import DownloadError, data_dir  # noqa: E402
from gpt.model import GPTModel  # noqa: E402
from gpt.storage.files import BadFile, written_whole  # noqa: E402
from gpt.weights import load_gpt2  # noqa: E402


def at_least_one(text):
    """A whole number from 1 on: argparse prints this function's name where it is not."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def from_0_to_4_billion(text):
    """A seed that pandas, NumPy and torch all take: argparse prints this function's name where it is not."""
    if not 0 <= int(text) <= 4_000_000_000:
        raise ValueError
    return int(text)


def two_to_ten(text):
    """How many seeds: argparse prints this function's name where there are fewer or more than an interval takes."""
    if not 2 <= int(text) <= 10:
        raise ValueError
    return int(text)


FLAGS = {
    "--model": dict(default="gpt2-small (124M)", help="which size: " + ", ".join(GPT2_SIZES)),
    "--weights": dict(choices=["pretrained", "random"], default="pretrained", help="random: the model untrained"),
    "--precision": dict(choices=["auto", *TYPES], default="auto", help="what models above mini compute in"),
    "--compile": dict(action="store_true", help="torch.compile: 40 s once; then no faster on 2 CPU cores"),
    "--epochs": dict(type=at_least_one, help="how often to go through the training messages"),
    "--resume": dict(action="store_true", help="go on from this run's last checkpoint"),
    "--method": dict(metavar="NAME", help='one method alone, such as "LoRA, r = 16", with --seeds seeds'),
    "--seeds": dict(metavar="N", type=two_to_ten, help="how many seeds --method gets, from --seed on"),
    "--text": dict(metavar="TEXT", help="a text of your own to classify"),
    "--adapter": dict(metavar="FILE", help="the adapter for --text; otherwise the newest one"),
    "--full": dict(action="store_true", help="train mini anew, as it is shipped: an hour"),
    "--csv": dict(metavar="FILE", help="a table of your own: CSV with a line of column names"),
    "--column": dict(metavar="NAME", help="the column of --csv that holds the texts"),
    "--text-column": dict(metavar="NAME", help="the column of --csv that holds the texts"),
    "--label-column": dict(metavar="NAME", help="the column of --csv that holds the classes"),
    "--predict": dict(metavar="FILE", help="a CSV whose texts get a label each, from --adapter, into --out"),
    "--out": dict(metavar="FILE", help="the CSV that --predict writes"),
    "--leave-out-empty": dict(action="store_true", help="leave out the rows of --csv that have an empty cell"),
    "--idx": dict(metavar="FOLDER", help="MNIST's four idx files, in place of Fashion-MNIST"),
}
NEEDS = {    # flag: one of these must be there too, if the chapter has any of them
    "--column": ["--csv"], "--text-column": ["--csv", "--predict"], "--label-column": ["--csv"],
    "--leave-out-empty": ["--csv"], "--adapter": ["--predict", "--text"], "--out": ["--predict"],
    "--resume": ["--full"], "--seeds": ["--method"],
}
NOT_BOTH = [("--csv", "--text"), ("--csv", "--predict"), ("--text", "--predict"), ("--text", "--resume"),
            ("--text", "--epochs"), ("--predict", "--epochs"), ("--predict", "--resume")]


def start(doc, quick, full, *flags):
    """Read the command line, seed torch and choose a device.

    A notebook has no command line. There the flags are those in the variable CHAPTER_FLAGS, or --quick without one.

    Input: doc, the chapter's first cell, which is its --help; quick and full, dicts of settings; flags, names in
        FLAGS, or pairs (name, options) of what only this chapter has
    Output: a namespace with the flags, the settings of quick or full, device, and chapter: its stem, or "notebook"
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    doc = inspect.cleandoc(doc).removeprefix("# ")
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()    # --quick --full: a minute's training would become the shipped mini
    size.add_argument("--quick", action="store_true", help="smaller, on the mini model, in under a minute")
    parser.add_argument("--seed", type=from_0_to_4_billion, default=123,
                        help="of initialisation, data order and sampling")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto")
    for flag in flags:
        name, options = (flag, FLAGS[flag]) if isinstance(flag, str) else flag
        (size if name == "--full" else parser).add_argument(name, **options)
    args = parser.parse_args(shlex.split(os.environ.get("CHAPTER_FLAGS", "--quick")) if in_notebook() else None)
    _check_flags(args, parser)
    for name, value in (quick if args.quick else full).items():
        if getattr(args, name, None) is None:
            setattr(args, name, value)
    model = _model_name(getattr(args, "model", "mini"), parser)
    args.model, args.device = "mini" if args.quick else model, _device(args.device)
    args.chapter = "notebook" if in_notebook() else Path(inspect.stack()[1].filename).stem
    torch.manual_seed(args.seed)
    sys.excepthook = _last_words
    return args


def _check_flags(args, parser):
    """Stop where a flag would be ignored, because what it NEEDS is missing or another takes its place (NOT_BOTH)."""
    flags = {f"--{name.replace('_', '-')}": value not in (None, False) for name, value in vars(args).items()}
    for flag, others in NEEDS.items():
        others = [other for other in others if other in flags]
        if flags.get(flag) and others and not any(flags[other] for other in others):
            parser.error(f"{flag} has no meaning without {' or '.join(others)}")
    for one, other in NOT_BOTH:
        if flags.get(one) and flags.get(other):
            parser.error(f"{one} and {other} cannot be used together: give one of them")


def _model_name(asked, parser):
    names = [name for name in GPT2_SIZES if asked.lower() in name.lower()]
    if len(names) != 1:
        parser.error(f"--model {asked}: one of {', '.join(GPT2_SIZES)}, or a part of one such as 355M")
    return names[0]


def _device(asked):
    if asked != "auto":
        return torch.device(asked)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _last_words(kind, error, traceback):
    """What stands on the screen when a chapter stops: one line where the reader can help it, else the traceback."""
    if kind is KeyboardInterrupt:
        print(f"\n{str(error) or 'stopped'}", file=sys.stderr)
        sys.exit(130)    # what a shell expects after Ctrl-C
    if isinstance(error, (DownloadError, OSError, BadFile, FloatingPointError)):    # full disk, bad file, diverged run
        forbidden = isinstance(error, PermissionError) and str(error.filename).startswith(str(data_dir()))
        hint = " (GPT_DATA_DIR can name another folder for downloads and runs)" if forbidden else ""
        print(f"\n{error}{hint}", file=sys.stderr)
        sys.exit(1)
    sys.__excepthook__(kind, error, traceback)


def load_weights(args):
    """The model that a chapter asked for and what to call its weights; mini where others cannot be had, said aloud.

    Now that the model is known, so is the precision: args.dtype becomes the type to compute in (torch.float32 where
    the chapter has no --precision), and args.precision its name.
    """
    if getattr(args, "weights", None) == "random":
        model = GPTModel(GPT2_SIZES[args.model], torch.Generator().manual_seed(args.seed)).eval()
        name = f"{args.model}, untrained (seed {args.seed})"
    else:
        try:
            model = load_gpt2(args.model)
        except DownloadError:    # fetch has printed each source and its reason
            print(f"*** {args.model} cannot be had here, so this run uses mini (by hand: data/README.md). ***")
            args.model = "mini"
            model = load_gpt2("mini")
        name = args.model
    known = hasattr(args, "dtype")    # from an earlier call
    args.dtype, why = choose_precision(getattr(args, "precision", "float32"), args.device, args.model)
    args.precision = next(name for name, dtype in TYPES.items() if dtype == args.dtype)
    if args.model != "mini" and not known:
        by_onednn = args.device.type == "cpu" and float32_by_onednn()
        print(f"computing in {args.precision}, {why}" + "; float32 by oneDNN" * by_onednn)
    return model, name


def answer(args, tokenizer):
    """Print the label that a saved adapter gives args.text: args.adapter, or the one that was saved last."""
    from gpt.applications.own_data import load_classifier    # chapter 0 does not need it

    saved = [file for file in (data_dir() / "runs").glob("*/*/adapter.safetensors") if file.parts[-3] != "experiment"]
    saved.sort(key=lambda file: file.stat().st_mtime)
    if not args.adapter and not saved:
        sys.exit(f"no adapter yet under {data_dir() / 'runs'}: run chapters/06_lora_spam.py first")
    file = args.adapter or saved[-1]
    model, adapter = load_classifier(file)
    try:
        args.text.encode()
    except UnicodeEncodeError:    # LC_ALL=C: Python did not know that the command line is UTF-8
        args.text = os.fsencode(args.text).decode(errors="replace")
    for label, probability in classify(model, [args.text], tokenizer, adapter):
        print(f"{label} ({probability:.1%}), says {file}")


def repeat(args):
    """args.method with args.seeds seeds, each run made once and remembered: its accuracies, and results.json."""
    from gpt.experiments.comparison import cell, records_over_seeds, summary, tests_of    # chapter 0 needs none of it
    from gpt.experiments.spam_filters import METHODS

    name = args.method
    if name not in METHODS:
        sys.exit(f"--method {name}: there are {'; '.join(METHODS)}")
    load_weights(args)    # mini where others cannot be had
    condition = "blog" if name == "the blog's LoRA" else "balanced"
    seeds = [args.seed + i for i in range(args.seeds)]
    how = {} if args.model == "mini" else dict(precision=args.precision)
    records = records_over_seeds(name, condition, seeds, args.model, args.device, epochs=args.epochs, **how)
    rows = {test: summary(records, test) for test in tests_of(condition)}
    for test, row in rows.items():
        print(f"{args.model}, {name}, seeds {seeds[0]} to {seeds[-1]}, {test} test: "
              f"{row['n_test']:,} messages (first seed)")
        print(f"  accuracy {cell(row['accuracy'])} %   each: "
              + ", ".join(f"{accuracy:.2%}" for accuracy in row["accuracy"]["values"]))
    folder = run_folder(args)
    method = "-".join(re.findall(r"\w+", name))
    report(folder.with_name(f"{folder.name}-to-{seeds[-1]}-{method}"), args, recipe="default", weights=args.model,
           seeds=seeds, results={test: {name: row} for test, row in rows.items()})


def peak_memory(device):
    """The most memory that this process has held so far, in bytes: the allocator's on a GPU, else the process's.

    Output: None where the system does not say (Windows)
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    from gpt.cost.fresh_process import peak_bytes    # here: most chapters never ask
    return peak_bytes()


def in_notebook():
    """Whether this is a Jupyter notebook, or a page of the book, which is made from one."""
    return "ipykernel" in sys.modules


def section(number):
    """Print the heading that the chapter has under this number; a notebook and a page show the heading themselves."""
    if in_notebook():
        return
    chapter = Path(inspect.stack()[1].filename).read_text(encoding="utf-8")
    title = re.search(rf"^# ## ({re.escape(number)} .*)$", chapter, re.MULTILINE)[1]
    print(f"\n{title}\n{'-' * len(title)}")


def show(thing):
    """Print where a class or function of gpt/ stands and its source as it is now; a notebook highlights it."""
    thing = inspect.unwrap(thing)    # of @torch.no_grad() and the like
    lines, first = inspect.getsourcelines(thing)
    place = f"{Path(inspect.getsourcefile(thing)).resolve().relative_to(ROOT).as_posix()}:{first}"
    source = textwrap.dedent("".join(lines)).rstrip()
    if in_notebook():
        from IPython.display import Markdown, display
        display(Markdown(f"`{place}`\n\n```python\n{source}\n```"))
    else:
        print(f"{place}\n{source}")


def predict(what, predicted, measured, tolerance=0.0):
    """Print a prediction beside its measurement, and stop the chapter where they differ by more than `tolerance`.

    Input: predicted, measured: numbers, or anything that can be compared; tolerance, relative to the prediction
    Raises: AssertionError
    """
    if isinstance(predicted, (int, float)) and not isinstance(predicted, bool):
        good = abs(measured - predicted) <= tolerance * abs(predicted)
        line = f"{what}: predicted {_number(predicted)}, measured {_number(measured)}"
    else:
        good, line = predicted == measured, f"{what}: predicted {predicted}, measured {measured}"
    print(line)
    if not good:
        raise AssertionError(f"{line}: they should differ by {tolerance:.1%} at the most")


def agree(what, one, other, tolerance=1e-5):
    """Print the largest difference between two tensors, and stop the chapter where it is above `tolerance`.

    Raises: AssertionError
    """
    difference = (one - other).abs().max().item()
    print(f"{what}: largest difference {difference:.1g}")
    if not difference <= tolerance:    # so that nan stops it too
        raise AssertionError(f"{what}: the largest difference is {difference:.3g}, above {tolerance:g}")


def _number(value):
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def run_folder(args):
    """Where results, checkpoint and figures go: data/runs/<chapter>/<model>-<recipe>-<quick or full>-seed<N>."""
    model = args.model.split()[0] + ("-untrained" if getattr(args, "weights", None) == "random" else "")
    size = "quick" if args.quick else "full"
    return data_dir() / "runs" / args.chapter / f"{model}-{getattr(args, 'recipe', 'default')}-{size}-seed{args.seed}"


def figure(fig, folder, name):
    """Save a figure as folder/name.png and say where; a notebook shows it."""
    path = folder / f"{name}.png"
    with written_whole(path) as temporary:
        fig.savefig(temporary, format="png", dpi=150)
    if in_notebook():
        from IPython.display import Image, display
        display(Image(path))
        sys.modules["matplotlib.pyplot"].close(fig)    # else the notebook shows it once more, at the end of the cell
    else:
        print(f"figure: {path}")


def report(folder, args, **results):
    """Write folder/results.json: what was run and what came out."""
    facts = dict(chapter=args.chapter, seed=args.seed, device=str(args.device), torch=torch.__version__,
                 precision=getattr(args, "precision", "float32"),
                 date=date.today().isoformat(),
                 machine=f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores")
    with written_whole(folder / "results.json") as temporary:
        temporary.write_text(json.dumps(facts | results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"results: {folder / 'results.json'}")
