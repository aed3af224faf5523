"""Run the chapters as notebooks with --quick, and keep what they print until their code or the library's changes."""

import base64
import hashlib
import io
import json
import os
import re
import subprocess
import time

from cells import CHAPTERS, NOTEBOOKS, PAGES, ROOT, as_text, notebook_cells

CACHE = ROOT / "data" / "book" / "outputs"
SECONDS = 900    # no cell may take longer
COLORS = 128     # of a figure: a fifth of the bytes, and no eye sees it
UNITS = "ms|s|min|seconds|tokens per second|a second|times as (?:long|fast)|(?:MB )?measured|of a step's time"
MEASURED = re.compile(rf"\d(?:[\d.,]*\d)?(?=%? (?:{UNITS})\b)")    # what another run measures differently
SETTINGS = {"CHAPTER_FLAGS": "--quick", "OMP_NUM_THREADS": "1"}    # one thread adds up in the same order everywhere


def executed(chapter):
    """The cells of a chapter's notebook with the outputs of its last run, or of a new one if any code has changed."""
    cells = notebook_cells(chapter)
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    digest, kept = _digest(code), CACHE / f"{chapter.stem}.json"
    if not kept.exists() or json.loads(kept.read_text(encoding="utf-8"))["digest"] != digest:
        started = time.perf_counter()
        try:
            outputs = _run(cells)
        except Exception as error:
            error.add_note(f"This was {chapter.name}.")
            raise
        CACHE.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps({"digest": digest, "outputs": outputs}), encoding="utf-8")
        print(f"{chapter.name}: ran in {time.perf_counter() - started:.0f} s", flush=True)
    outputs = json.loads(kept.read_text(encoding="utf-8"))["outputs"]
    for number, (cell, printed) in enumerate(zip(code, outputs, strict=True), 1):
        cell |= {"execution_count": number, "outputs": printed}
    return cells


def _digest(code):
    """A hash of all that decides what these cells print: the library, mini, the packages, and the cells' own code."""
    files = [*ROOT.glob("gpt/**/*.py"), *ROOT.glob("data/mini/*"), CHAPTERS / "book.py", PAGES / "requirements.txt",
             ROOT / "requirements.txt"]
    parts = [file.read_bytes() for file in sorted(files)] + ["".join(cell["source"]).encode() for cell in code]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _run(cells):
    """The outputs of each code cell, run in a Python of its own in the folder where the notebook will lie."""
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.reads(as_text(cells), as_version=4)
    client = NotebookClient(book, timeout=SECONDS, resources={"metadata": {"path": str(NOTEBOOKS)}})
    client.execute(env=os.environ | SETTINGS, stderr=subprocess.DEVNULL)
    return [_tidy(cell.outputs) for cell in book.cells if cell.cell_type == "code"]


def _tidy(outputs):
    """Outputs without progress bars and without this machine's paths; what was printed in pieces becomes one text."""
    tidy = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        output = json.loads(json.dumps(output).replace(json.dumps(f"{ROOT}{os.sep}").strip('"'), ""))
        if output["output_type"] == "stream" and tidy and tidy[-1]["output_type"] == "stream":
            tidy[-1]["text"] += output["text"]
        else:
            tidy.append(output)
    for output in tidy:
        data = output.get("data", {})
        if len(data) > 1:
            data.pop("text/plain", None)    # <IPython.core.display.Image object>
        if "image/png" in data:
            data["image/png"] = _fewer_colors(data["image/png"])
    return tidy


def _fewer_colors(png):
    """A figure, in base64 before and after, with a palette in place of 16 million colours."""
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        small = io.BytesIO()
        image.convert("RGB").quantize(COLORS).save(small, "png", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def without_times(cells):
    """The cells with "…" for each number that only this run measured: seconds, how many times as long, memory."""
    cells = json.loads(json.dumps(cells))    # the caller's stay as they are
    for output in (output for cell in cells for output in cell.get("outputs", [])):
        for texts, kind in ((output, "text"), (output.get("data", {}), "text/plain")):
            if kind in texts:
                texts[kind] = MEASURED.sub("…", texts[kind])
    return cells
