"""Who may import whom: the floors of gpt/__init__.py, read from the syntax trees, imports inside functions included."""

import ast

from conftest import ROOT, modules_of_gpt

FLOORS = {"storage": 0, "story": 1, "evaluate": 2, "cost": 2, "applications": 3, "interop": 3, "experiments": 4}
HELPERS_OF_CHAPTERS = ("book",)


def folder(module):
    """"gpt.storage.files" -> "storage"; "gpt.lora" -> "story"."""
    parts = module.split(".")
    return parts[1] if len(parts) > 2 else "story"


def imports(name):
    """The modules that a file imports, whole names, those of `from gpt.storage import files` too."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: relative; write the whole name"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


MODULES = {name.removesuffix(".py").replace("/", "."): name for name in modules_of_gpt() if "__init__" not in name}
ARROWS = {module: imports(name) & MODULES.keys() for module, name in MODULES.items()}


def test_every_folder_has_a_floor_and_a_job():
    assert {folder(module) for module in MODULES} == set(FLOORS)
    for name in modules_of_gpt() - set(MODULES.values()):
        tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
        assert ast.get_docstring(tree) and len(tree.body) == 1, f"{name} says what the folder is for, and nothing else"


def test_imports_go_down_and_neighbours_on_a_floor_do_not_import_each_other():
    assert sum(map(len, ARROWS.values())) > 80, "the imports were not found"
    for module, imported in ARROWS.items():
        for other in imported:
            here, there = folder(module), folder(other)
            assert here == there or FLOORS[there] < FLOORS[here], (
                f"{MODULES[module]} imports {other}: {here} may not import {there} (floors: gpt/__init__.py)")


def test_the_files_of_the_story_import_nothing_but_the_story_and_storage():
    for module, imported in ARROWS.items():
        if folder(module) == "story":
            assert {folder(other) for other in imported} <= {"story", "storage"}, MODULES[module]


def test_no_circle_of_files():
    done, path = set(), []

    def visit(module):
        assert module not in path, f"a circle: {' -> '.join([*path[path.index(module):], module])}"
        if module not in done:
            path.append(module)
            for other in sorted(ARROWS[module]):
                visit(other)
            done.add(path.pop())

    for module in sorted(MODULES):
        visit(module)
    assert done == set(MODULES)


def test_figures_are_drawn_by_chapters_alone():
    assert not [MODULES[module] for module, imported in ARROWS.items() if "gpt.plots" in imported]


def test_gpt_imports_no_chapter_and_no_chapter_another():
    chapters = {path.stem: path.relative_to(ROOT).as_posix() for path in (ROOT / "chapters").glob("*.py")}
    for name in [*MODULES.values(), *chapters.values()]:
        found = {module.split(".")[0] for module in imports(name)} & {"chapters", *chapters}
        allowed = set(HELPERS_OF_CHAPTERS) if name in chapters.values() else set()
        assert found <= allowed, f"{name} imports {sorted(found - allowed)}"
