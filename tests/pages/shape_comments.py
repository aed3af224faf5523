"""Reads the shape comments of a module, runs it, and says which of them are untrue. Used by tests/pages/test_shapes.py.

A shape comment stands at the end of a line and speaks of the longest expression that ends there: what is assigned,
returned or yielded; of a `for`, each item. It begins with the shape, and prose may follow:

    # (B, T + 1)                         a tuple as Python writes it; sizes are names, numbers and + - * /
    # (..., out)                         whatever axes come first
    # (S,), (N + samples,)               one shape for each value of the line; what is assigned to _ is not looked at
    # (C, C) or (C,)                     now this, now that; both must come about
    # (B, H, T, D), T = 1 with `at`      the same: (B, H, T, D) or (B, H, 1, D)

What a docstring says after "Output: " or "-> ", if that is a shape, is held against what its function (of a class:
`forward`) returns, if that is one value. It has to be proved only where it needs no name but the letters of
gpt/__init__.py.

How it is watched: in the module's syntax tree each expression that a comment speaks of is put into a call of `_saw`,
which notes the shape and hands the value on. So `x = f(y)  # (B, T)` on line 7 runs as `x = _saw(7, [], f(y))`.
"""

import ast
import io
import re
import tokenize
from pathlib import PurePosixPath
from types import ModuleType

import gpt

NAME = r"[A-Za-z_]\w*"
SIZE = r"(?:\.\.\.|\w+(?: ?[-+*/]+ ?\w+)*)"
SHAPE = rf"\({SIZE},(?: {SIZE}(?:, {SIZE})*)?\)"
SHAPES = rf"{SHAPE}(?:(?:,|,? or) {SHAPE})*"
LETTERS = set(re.findall(r"\b([A-Za-z])  \w", gpt.__doc__))


class Said:
    """What one line says, the expressions that it speaks of, and what a run has shown of it."""

    def __init__(self, line, shapes, prose, expressions, required=True):
        self.line, self.text, self.expressions, self.required = line, shapes, expressions, required
        self.reached, self.proved, self.untrue = False, set(), None
        self.values = [re.findall(SHAPE, value) for value in re.split(r"(?<=\)), (?=\()", shapes)]    # alternatives
        for name, number in re.findall(rf"\b({NAME}) = (\d+)\b", prose):
            for alternatives in self.values:
                alternatives += {re.sub(rf"\b{name}\b", number, shape) for shape in alternatives} - set(alternatives)

    def compare(self, shapes, sizes):
        """Note what the shapes of the line's values prove and refute."""
        self.reached, expected = True, self.values * (len(shapes) if len(self.values) == 1 else 1)
        if len(expected) != len(shapes):
            self.untrue = f"that is {len(expected)} shapes for {len(shapes)} values"
            return
        for alternatives, shape in zip(expected, shapes, strict=True):
            true = {text for text in alternatives if fits(shape, in_numbers(text, sizes))}
            self.proved |= true
            if not true and all(in_numbers(text, sizes) for text in alternatives):
                self.untrue = f"{shape} came out of sizes {', '.join(f'{name} = {n}' for name, n in sizes.items())}"

    def fault(self):
        """Why it is not proved, or None."""
        unseen = {shape for alternatives in self.values for shape in alternatives} - self.proved
        if self.untrue or not (self.required and unseen):
            return self.untrue
        why = "never comes out, or a name in it has no size" if self.reached else "is on a line that is never reached"
        return f"in the module's run {' and '.join(sorted(unseen))} {why}"


def in_numbers(shape, sizes):
    """`(B, T + 1)` -> (2, 8); None where a name has no size."""
    if set(re.findall(NAME, shape)) <= sizes.keys():
        return eval(re.sub(NAME, lambda name: str(sizes[name[0]]), shape))
    return None


def fits(shape, expected):
    if expected and expected[0] is ...:
        return len(shape) >= len(expected) - 1 and shape[len(shape) - len(expected) + 1:] == expected[1:]
    return shape == expected


def comments(source, tree):
    """What the comments say. Raises: ValueError for one that looks like a shape comment and follows no rule."""
    expressions = [node for node in ast.walk(tree) if isinstance(node, ast.expr)]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        line, text, code = token.start[0], token.string[1:].strip(), token.line[:token.start[1]].strip()
        if token.type == tokenize.COMMENT and (re.match(SHAPE, text) or code and re.match(rf"\(|.*{SHAPE}", text)):
            match = re.fullmatch(rf"({SHAPES})((?:[,;:.]| (?!or )).*)?", text)
            ends = [node for node in expressions if node.end_lineno == line]
            twice = re.search(rf"({SHAPE}) or \1", text)
            if not match or re.search(SHAPE, match[2] or "") or not ends or twice:
                raise ValueError(f"{line} says {text}: see shape_comments.py, how and where a shape is written")
            longest = max(ends, key=lambda node: (node.end_col_offset, -node.lineno, -node.col_offset))
            yield Said(line, match[1], match[2] or "", [longest.value if isinstance(longest, ast.Yield) else longest])


def docstrings(tree):
    """What the docstrings say of the shape of an output."""
    for owner in ast.walk(tree):
        if not isinstance(owner, (ast.FunctionDef, ast.ClassDef)):
            continue
        text = ast.get_docstring(owner, clean=False) or ""
        outputs = list(re.finditer(rf"(?:[Oo]utput: |-> )({SHAPES})", text))
        methods = [node for node in owner.body if getattr(node, "name", None) == "forward"]
        function = owner if isinstance(owner, ast.FunctionDef) else methods[0] if methods else None
        if outputs and function:
            line = owner.body[0].lineno + text[:outputs[0].start()].count("\n")
            shapes = " or ".join(output[1] for output in outputs)
            returned = [node.value for node in ast.walk(function) if isinstance(node, ast.Return) and node.value]
            if not any(isinstance(value, ast.Tuple) for value in returned):
                yield Said(line, shapes, text, returned, required=set(re.findall(NAME, shapes)) - {"or"} <= LETTERS)


class Watch(ast.NodeTransformer):
    """Puts each expression that a line speaks of into `_saw`, with the line and the values that are assigned to `_`."""

    def __init__(self, tree, said):
        self.lines = {}
        for one in said:
            for expression in one.expressions:
                self.lines.setdefault(expression, []).append(one.line)
        self.loops = {node.iter for node in ast.walk(tree) if isinstance(node, ast.For)}
        self.unused = {node.value: [i for i, target in enumerate(getattr(node.targets[0], "elts", []))
                                    if getattr(target, "id", None) == "_"]
                       for node in ast.walk(tree) if isinstance(node, ast.Assign)}

    def visit(self, node):
        lines, unused, items = self.lines.get(node, []), self.unused.get(node, []), node in self.loops
        node = self.generic_visit(node)
        for line in lines:
            form = f"map(lambda item: _saw({line}, [], item), None)" if items else f"_saw({line}, {unused}, None)"
            call = ast.parse(form, mode="eval").body
            call.args[-1] = node
            node = ast.copy_location(call, node)
        return node


def faults(name, source, run):
    """All that is untrue or unproved in a module, such as "gpt/lora.py", a sentence each. `run`: see
    tests/pages/test_shapes.py.
    """
    tree, seen, stem = ast.parse(source), [], PurePosixPath(name).stem
    try:
        said = {one.line: one for one in [*comments(source, tree), *docstrings(tree)]}
    except ValueError as error:
        return [f"{name}:{error}"]
    if run is None:
        return [f"{name}:{one.line} says {one.text}: there is no run_{stem} in tests/pages/test_shapes.py to prove it"
                for one in said.values() if one.required]

    def saw(line, unused, value):
        values = value if isinstance(value, (tuple, list)) else [value]
        seen.append((line, [tuple(one.shape) if hasattr(one, "shape") else f"a {type(one).__name__}"
                            for i, one in enumerate(values) if i not in unused]))
        return value

    module = ModuleType(name.removesuffix(".py").replace("/", "."))
    module.__file__, module._saw = name, saw
    tree = ast.fix_missing_locations(Watch(tree, said.values()).visit(tree))
    exec(compile(tree, module.__file__, "exec"), vars(module))
    found = []
    for sizes in run(module):
        for one, other in equal_sizes(said.values(), sizes):
            found.append(f"in the run of {name} {one} and {other} are the same number, so it proves nothing")
        for line, shapes in seen:
            said[line].compare(shapes, sizes)
        seen.clear()
    return found + [f"{name}:{one.line} says {one.text}: {one.fault()}" for one in said.values() if one.fault()]


def equal_sizes(said, sizes):
    """Pairs of sizes, such as T + 1 and S, that are written in different ways and have the same number."""
    texts = {size for one in said for shape in sum(one.values, []) for size in re.findall(SIZE, shape)} - {"..."}
    numbers = {size: in_numbers(f"({size},)", sizes) for size in sorted(texts)}
    return [(one, other) for one in numbers for other in numbers
            if one < other and numbers[one] and numbers[one] == numbers[other]]
