"""Where the time of a whole command goes: seconds of each section, and how much of it is training. Not a test.

Run: python tests/bench/bench_command.py
     python tests/bench/bench_command.py COMMAND    another one, such as chapter 6's with another precision

Without arguments it is chapter 6 at 124M with random weights, one epoch, in the precision that the machine has. A
section's time begins when its heading is printed. Training is the training steps alone, as results.json says.
"""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ["chapters/06_lora_spam.py", "--model", "124M", "--weights", "random", "--epochs", "1"]
WANTED = 1 / 3    # of the time outside training, at most


def timed(command):
    """Run it. Output: [(heading, seconds until the next)], and the results.json that it says it wrote, as a dict."""
    started = time.perf_counter()
    parts, results = [["start, imports", started]], {}
    with subprocess.Popen([sys.executable, "-u", *command], cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        for line in child.stdout:
            if re.match(r"\d+\.\d+  ", line):
                parts.append([line.strip(), time.perf_counter()])
            if match := re.match(r"results: (.*)", line):
                results = json.loads(Path(match[1]).read_text(encoding="utf-8"))
    if child.returncode:
        sys.exit(f"{' '.join(command)}: exit status {child.returncode}")
    ends = [begun for _, begun in parts[1:]] + [time.perf_counter()]
    return [(heading, end - begun) for (heading, begun), end in zip(parts, ends)], results


def main():
    command = sys.argv[1:] or COMMAND
    parts, results = timed(command)
    print(f"python {' '.join(command)}")
    for heading, seconds in parts:
        print(f"{seconds:8.1f} s  {heading}")
    total, training = sum(seconds for _, seconds in parts), results["seconds_training"]
    outside = 1 - training / total
    print(f"{total:8.1f} s in all, {training:.1f} s of them training, in {results['precision']}: {outside:.0%} outside, "
          f"wanted {WANTED:.0%} or less: {'yes' if outside <= WANTED else 'NO'}")


if __name__ == "__main__":
    main()
