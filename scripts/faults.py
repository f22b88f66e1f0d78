"""Plant single faults in a copy of the package, one at a time, and run the tests that catch each.

    python scripts/faults.py [--check] [BEGINNING ...]

BEGINNING selects lines of faults.txt, such as data/ or api.py; all without one. --check only tells
whether each can be planted.

A line of faults.txt is `FILE FUNCTION | CHANGE | TESTS`. FUNCTION is the qualified name of a
function or class, or of what a module or class assigns. CHANGE is a change of the syntax tree, so
reformatting the code costs nothing:

    drop call NAME         a statement that calls NAME becomes `pass`
    drop statement KIND    a statement, such as Assign, AugAssign or Raise, becomes `pass`
    drop keyword NAME      a call loses a keyword argument
    drop operand           `a + b` or `a and b` loses an operand; every operand is a place
    drop element           a tuple, list, set or dict loses an item; every item is a place
    drop subscript         `a[i]` becomes `a`
    drop unary             `not a`, `-a` or `~a` becomes `a`
    receiver NAME          `a.NAME(b)` becomes `a`
    argument NAME K        `NAME(a, b)` becomes its K-th argument
    negate, always, never  a condition: of if, while, assert, `x if c else y`, a comprehension
    operator OLD NEW       an operator, by the names of `ast`: Lt LtE, Add Sub, And Or, In NotIn
    constant OLD NEW       a literal becomes another expression
    name OLD NEW           a name becomes another expression, an attribute another attribute
    return NEW             `return a` returns another expression

`#2` at the end means the second place in the function where this can be done, not the first. Exit
code 1 if the tests do not catch a fault. Run it after `make test` has passed: it plants in HEAD.
"""

import ast
import contextlib
import copy
import difflib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
LIST, COPY = ROOT / "scripts" / "faults.txt", ROOT / "build" / "faults"

SECONDS = 1800
"""Tests that have not ended after this time have caught the fault as well."""


class Fault(NamedTuple):
    """A line of faults.txt."""

    file: str
    function: str
    change: str
    tests: list[str]

    @classmethod
    def read(cls, line: str) -> "Fault":
        place, change, tests = line.split(" | ")
        return cls(*place.split(), change, tests.split())

    def plant(self, tree: ast.Module) -> None:
        """Change the syntax tree of the file. Raises LookupError if there is no such place."""
        words = re.findall(r"""'[^']*'|"[^"]*"|\S+""", self.change)
        number = int(words.pop()[1:]) if words[-1].startswith("#") else 1
        for parent, field, index, node in places(defined(tree, self.function)):
            for new in substitutes(node, words):
                number -= 1
                if number == 0 and ast.dump(new) != ast.dump(node):
                    if index is None:
                        setattr(parent, field, new)
                    else:
                        getattr(parent, field)[index] = new
                    return
        raise LookupError(f"{self.file} {self.function} | {self.change}: there is no such place")


def defined(tree: ast.AST, name: str) -> ast.AST:
    """Return the definition or assignment of a qualified name. Raises LookupError."""
    for part in name.split("."):
        named = [statement for statement in own_statements(tree) if part in names_of(statement)]
        if not named:
            raise LookupError(f"{name} is not defined")
        tree = named[-1]  # overloads come first
    return tree


def own_statements(tree: ast.AST) -> Iterator[ast.stmt]:
    """The statements of a module, class or function, without those of definitions in it."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.stmt):
            yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.expr):
            yield from own_statements(child)


def names_of(statement: ast.stmt) -> list[str]:
    """What a statement defines or assigns."""
    match statement:
        case ast.FunctionDef(name) | ast.AsyncFunctionDef(name) | ast.ClassDef(name):
            return [name]
        case ast.Assign(targets):
            nodes = [node for target in targets for node in ast.walk(target)]
            return [node.id for node in nodes if isinstance(node, ast.Name)]
        case ast.AnnAssign(ast.Name(name)):
            return [name]
    return []


def places(parent: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    """Every node below another, in the order of the source: (its parent, field, index, itself)."""
    for field, value in ast.iter_fields(parent):
        if field in ("annotation", "returns"):
            continue
        for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(node, ast.AST):
                yield parent, field, index, node
                yield from places(node)


def substitutes(node: ast.AST, words: Sequence[str]) -> Iterator[ast.AST]:
    """What may take the place of a node by a change."""
    match words, node:
        case ["drop", "call", name], ast.Expr(ast.Call() as call) if called(call) == name:
            yield ast.Pass()
        case ["drop", "statement", kind], ast.stmt() if type(node).__name__ == kind:
            yield ast.Pass()
        case ["drop", "keyword", name], ast.Call(keywords=given):
            if name in [keyword.arg for keyword in given]:
                yield changed(node, keywords=[one for one in given if one.arg != name])
        case ["drop", "operand"], ast.BinOp(left, _, right):
            yield from (right, left)
        case ["drop", "operand"], ast.BoolOp(_, values):
            for rest in shorter(values):
                yield changed(node, values=rest) if len(rest) > 1 else rest[0]
        case ["drop", "element"], ast.Tuple(items) | ast.List(items) | ast.Set(items):
            for rest in shorter(items):
                yield changed(node, elts=rest)
        case ["drop", "element"], ast.Dict(keys, values):
            for fewer_keys, fewer_values in zip(shorter(keys), shorter(values), strict=True):
                yield changed(node, keys=fewer_keys, values=fewer_values)
        case ["drop", "subscript"], ast.Subscript(value):
            yield value
        case ["drop", "unary"], ast.UnaryOp(_, operand):
            yield operand
        case ["receiver", name], ast.Call(ast.Attribute(value)) if called(node) == name:
            yield value
        case ["argument", name, number], ast.Call(_, args) if called(node) == name:
            yield from args[int(number) - 1 : int(number)]
        case [how], ast.If() | ast.While() | ast.IfExp() | ast.Assert():
            yield changed(node, test=condition(node.test, how))
        case [how], ast.comprehension(ifs=tests):
            for i, test in enumerate(tests):
                yield changed(node, ifs=[*tests[:i], condition(test, how), *tests[i + 1 :]])
        case ["operator", old, new], ast.AST() if type(node).__name__ == old:
            yield getattr(ast, new)()
        case ["constant", old, new], ast.Constant() if ast.dump(node) == ast.dump(expression(old)):
            yield expression(new)
        case ["name", old, new], ast.Name(name) if name == old:
            yield expression(new)
        case ["name", old, new], ast.Attribute(_, name) if name == old:
            yield changed(node, attr=new)
        case ["return", new], ast.Return():
            yield ast.Return(expression(new))


def shorter(items: list) -> list[list]:
    """All lists that have one item less."""
    return [items[:i] + items[i + 1 :] for i in range(len(items))]


def called(call: ast.Call) -> str:
    """The name that is called, of a method without its object."""
    return ast.unparse(call.func).rpartition(".")[2]


def changed(node: ast.AST, **fields: object) -> ast.AST:
    """A copy of a node with other fields."""
    new = copy.copy(node)
    for field, value in fields.items():
        setattr(new, field, value)
    return new


def condition(test: ast.expr, how: str) -> ast.expr:
    """A condition that is negated, or always or never holds."""
    if how != "negate":
        return ast.Constant(how == "always")
    negated = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
    return test.operand if negated else ast.UnaryOp(ast.Not(), test)


def expression(text: str) -> ast.expr:
    """The syntax tree of an expression."""
    return ast.parse(text, mode="eval").body


def main(words: Sequence[str]) -> int:
    """Plant or check the faults whose lines begin with one of `words`; return 1 if one escapes."""
    check, beginnings = "--check" in words, tuple(word for word in words if word != "--check")
    every = LIST.read_text(encoding="utf-8").splitlines()
    lines = [line for line in every if not beginnings or line.startswith(beginnings)]
    if not lines:
        sys.exit(f"no line of {LIST.name} begins with {' or '.join(beginnings)}")
    if check:
        for fault in map(Fault.read, lines):
            path = ROOT / "src" / "featherseg" / fault.file
            fault.plant(ast.parse(path.read_text(encoding="utf-8")))
            if not all((ROOT / test).exists() for test in fault.tests):
                raise LookupError(f"{fault.file} {fault.function}: no {' '.join(fault.tests)}")
        return 0

    shutil.rmtree(COPY, ignore_errors=True)
    subprocess.run(["git", "clone", "-q", ROOT, COPY], check=True)
    for built in (ROOT / "src/featherseg/kernels").glob("*.so"):
        shutil.copy(built, COPY / built.relative_to(ROOT))
    missed = []
    for line in lines:
        fault = Fault.read(line)
        path = COPY / "src" / "featherseg" / fault.file
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        sound = ast.unparse(tree)
        fault.plant(tree)
        faulty = ast.unparse(ast.fix_missing_locations(tree))
        diff = difflib.unified_diff(sound.splitlines(), faulty.splitlines(), n=0, lineterm="")
        print(line, *[f"  {row}" for row in list(diff)[2:]], sep="\n", flush=True)
        path.write_text(faulty, encoding="utf-8")
        if not fails(fault.tests):
            missed.append(line)
        path.write_text(source, encoding="utf-8")
    print(*["not caught:", *missed] if missed else ["all are caught"], sep="\n")
    return bool(missed)


def fails(tests: Sequence[str]) -> bool:
    """Whether a quick test of these files fails in the copy."""
    command = [sys.executable, "-m", "pytest", *tests, "-x", "-p", "no:cacheprovider"]
    command += ["-m", "not slow and not gpu"]
    environment = os.environ | {"PYTHONPATH": str(COPY / "src"), "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(
        command,
        cwd=COPY,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with running:
        try:
            return running.wait(SECONDS) != 0
        except subprocess.TimeoutExpired:
            return True
        finally:  # what the tests started ends with them
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
