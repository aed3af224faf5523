"""Runs that are made once: settings in, a result out, kept in a file whose name is made from the settings.

Read along: chapters/08_lora_inside.py.
"""

import hashlib
import json
from pathlib import Path

from gpt.storage.files import written_whole


def remembered(folder, settings, run):
    """What run() returns, or what it returned when it was last called with these settings: nothing is computed twice.

    Each result has a JSON file in `folder`, whose name is made from the settings, in whatever order they come, and that
    holds {"settings": ..., "result": ...}. It is written whole, so an interrupted experiment goes on with the next run.
    The trap: code is no setting. After a change of code that matters delete the folder.

    Input: settings, a dict, and run() -> a dict, both of numbers, text, None, lists and dicts
    """
    text = json.dumps(settings, sort_keys=True)
    path = Path(folder) / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))["result"]
    result = run()
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps({"settings": settings, "result": result}, indent=1) + "\n", encoding="utf-8")
    return result
