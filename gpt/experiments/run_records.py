"""Runs that are made once: the result is kept in a file and read from it the next time.

Read along: chapters/08_lora_inside.py, chapters/10_believe_the_number.py.
"""

import hashlib
import json
from pathlib import Path

from gpt.storage.files import BadFile, read_json, written_whole


def remembered(folder, settings, run):
    """What run() returns, or what it returned when it was last called with these settings: nothing is computed twice.

    Each result has a JSON file in `folder` that holds {"settings": ..., "result": ...}. Its name is made from the
    settings, in whatever order they come (`digest`). It is written whole (`made_once`), so an interrupted experiment
    goes on with the next run. The trap: code is no setting. After a change of code that matters delete the folder.

    Input: settings, a dict, and run() -> a dict, both of numbers, text, None, lists and dicts
    """
    file = Path(folder) / f"{digest(settings)[:16]}.json"
    return made_once(file, lambda: {"settings": settings, "result": run()}, ["settings", "result"])["result"]


def digest(settings):
    """64 hexadecimal digits that are the same for the same settings, a dict, in whatever order they come."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def made_once(file, make, keys=()):
    """The content of a JSON file. If there is none, it is made by make() and written whole.

    Input: make() -> a dict; keys, which the content must have
    Raises: BadFile for a damaged file or one that lacks a key; it says to delete it
    """
    if file.exists():
        try:
            found = read_json(file)
            if isinstance(found, dict) and found.keys() >= set(keys):
                return found
            raise BadFile(f"{file}: it is no record of a run, which has {', '.join(keys)}")
        except BadFile as error:
            raise BadFile(f"{error}: delete this file, and the run is made anew") from error
    made = make()
    with written_whole(file) as temporary:
        temporary.write_text(json.dumps(made, ensure_ascii=False) + "\n", encoding="utf-8")
    return made


def over_seeds(results):
    """Runs that differ in their seed alone, [{measure: number}, ...], as {measure: [one number per seed]}."""
    return {measure: [result[measure] for result in results] for measure in results[0]}
