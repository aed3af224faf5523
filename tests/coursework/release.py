"""Make a copy of the repository to hand out: without git's history and without the bodies of some exercises.

What git tracks is copied as it stands in the working tree. Then every line of the bodies is looked for in the whole
copy: a chapter, a test or a page that quotes an answer is an error that names the place.
"""

import io
import shutil
import subprocess
import tokenize

from originals import RELEASED, ROOT, is_open, read, write
from take_out import Problem, cut, take_out

INSTRUCTORS = [f"tests/coursework/{name}.py" for name in (
    "museum", "test_museum",                                                  # they quote answers
    "release", "grading", "grade_submission", "lay_student", "grading_report", "submissions",    # of no use there
    "toy_course", "test_take_out", "test_exercises", "test_grading", "test_submissions")]
INSTRUCTORS += ["tests/pages/test_pages.py", *(path.relative_to(ROOT).as_posix() for path in
                sorted((ROOT / "chapters" / "notebooks").glob("*.ipynb")))]    # show() has printed answers there
SHORT = 25    # characters: a line up to this length says too little to be called a quotation
ACCEPTED = """
    alphabet = byte_alphabet()
    for _ in range(max_new_tokens):
    _check_settings(max_new_tokens, temperature, top_k, top_p)
    limit = model.config.context_length
    weight = model.tok_emb.weight
    model.pad_to = adapter.pad_to
    refuse_to_lose_head(model)
    model.out_head.train(model.training)
    model.requires_grad_(False)
    labels, logits = predict_logits(model, data_loader, device, num_batches)
    self.dropout = nn.Dropout(dropout)
    parent, _, child = name.rpartition(".")
    for name, options in adapter.layers.items():
    for name, layer in lora_layers(model):
    for name, layer in layers.items():
    for name, tensor in tensors.items():
    model.set_submodule(name, layer)
    layers[name]["shares_a"] = owner
    write_adapter(file, adapter, tensors)
    _check_tensors(model, adapter, tensors, file)
    parameters = list(model.parameters())
    for number, line in enumerate(lines, start=1):
    for name, p in model.named_parameters():
    loss = loss_fn(model, batch)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], clip)
    hidden = model.hidden(ids[:, :-1])
    s = in_float64(singular_values)
    for name, (U, S, Vh) in updates.items():
    labels, probabilities = _as_probabilities(labels, probabilities)
"""    # lines of answers that stand elsewhere too, in other functions, chapters or tests, and give nothing away there
# (but for scaling and clipping: chapter 4's step and chapter 7's step in parts have to do the same with the gradients)


def tracked():
    """The files that git tracks and that are there, as paths from the root."""
    try:
        run = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, encoding="utf-8")
    except OSError as error:
        raise Problem(f"what git tracks is copied, and git cannot be run: {error}") from None
    names = [name for name in run.stdout.split("\0") if name and (ROOT / name).is_file()]
    if not names:
        raise Problem(f"what git tracks is copied, and git knows no file here: {run.stderr.strip() or 'run git add'}")
    return names


def copy(destination, names):
    for name in names:
        (destination / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, destination / name)


def refuse_open(exercises):
    """The originals are needed: a body that is out here would be missing in what is released or graded."""
    opened = [exercise.id for exercise in exercises if is_open(exercise)]
    if opened:
        raise Problem(f"{', '.join(opened)} started here: put the originals back first, with: "
                      f"python tests/exercises.py restore {' '.join(opened)}")


def release(destination, exercises, everything):
    """Make the copy without these exercises' bodies; what to tell the instructor.

    Raises: Problem for a folder that holds anything, for an exercise of `everything` that is open here, and for a copy
        in which a line of an answer still stands; then nothing is left of the copy
    """
    destination = destination.absolute()
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise Problem(f"{destination} is there already and not empty: name a folder that does not exist yet")
    if destination.resolve().is_relative_to(ROOT):
        raise Problem(f"{destination} lies inside this repository: name a folder outside, such as ../week6")
    refuse_open(everything)
    try:
        copy(destination, [name for name in tracked() if name not in INSTRUCTORS])
        found = quotations(destination, take_bodies_out(destination, exercises))
        if found:
            raise Problem("\n".join(["the copy would quote answers, so there is none:", *found]))
        write(destination / RELEASED.relative_to(ROOT), "".join(f"{exercise.id}\n" for exercise in exercises))
    except BaseException:
        shutil.rmtree(destination, ignore_errors=True)
        raise
    return (f"{destination}: {len(exercises)} exercises, {sum(e.points for e in exercises)} points: "
            f"{' '.join(e.id for e in exercises)}\nnot in it: .git, {', '.join(INSTRUCTORS)}")


def take_bodies_out(destination, exercises):
    """Take the bodies out of the copy: their longer lines of code and of comment, {line: the exercise's id}."""
    lines = {}
    for exercise in exercises:
        source = read(ROOT / exercise.file)
        for line in telling_lines(cut(source, exercise)):
            lines[line] = exercise.id
        copied = destination / exercise.file
        write(copied, take_out(read(copied), exercise)[0])
    return lines


def telling_lines(parts):
    """The body's lines that would give it away: code and the comment behind it each by itself, spaces evened out."""
    texts = set()
    first = parts.head.count("\n") + parts.docstring.count("\n")
    text = "if True:\n" + parts.function if parts.function[0].isspace() else parts.function
    first += text is not parts.function
    comments = {token.start[0]: token for token in tokenize.generate_tokens(io.StringIO(text).readline)
                if token.type == tokenize.COMMENT}
    for number, line in enumerate(text.splitlines(), 1):
        if number > first:
            token = comments.get(number)
            code = line[:token.start[1]] if token else line
            texts |= {even(code), even(token.string.lstrip("# ")) if token else ""}
    accepted = {line.strip() for line in ACCEPTED.splitlines()}
    return {text for text in texts - accepted if len(text) > SHORT and not text.startswith("(")}    # ( begins a shape


def even(text):
    """The text with one space where there are several."""
    return " ".join(text.split())


def quotations(destination, lines):
    """Each place of the copy where one of the lines stands: "chapters/02_attention.py:31 quotes E2.1: <line>"."""
    found = []
    for path in sorted(path for path in destination.rglob("*") if path.is_file()):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:    # a picture, weights
            continue
        whole = even(text)
        here = [line for line in lines if line in whole]
        for number, said in enumerate(text.splitlines() if here else [], 1):
            found += [f"{path.relative_to(destination).as_posix()}:{number} quotes {lines[line]}: {line}"
                      for line in here if line in even(said)]
    return found
