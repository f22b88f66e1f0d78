"""Whether a .pt2 file may be opened: torch.export.load runs code that a file brings, so what could be code is refused.

As torch 2.13 reads such a file, code can hide in pickled weights and constants, in the pickled example input (its
`weights_only` gives way), in expressions of sizes (sympy evaluates them), in guards, and in the names of operators
(any attribute of `torch` is taken). What `featherseg export` writes has none of these: tensors are raw bytes,
operators are aten's. Anything else is refused before torch sees the file.
"""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from featherseg.core.errors import ExportError

MEMBERS = re.compile(
    r"(models/model\.json|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt|extra/facts\.json"
    r"|archive_format|archive_version|byteorder|version|\.data/(version|serialization_id|alignment)|\.format_version"
    r"|\.storage_alignment)"
)
OPERATORS = re.compile(
    r"torch\.ops\.aten\.(?!from_file)\w+\.\w+|torch\.sym_(max|min|int|float|not|ite)|_operator\.\w+|math\.(ceil|floor)"
    r"|torch\.ops\.higher_order\.wrap_with_(autocast|set_grad_enabled)"
)
FUNCTIONS = re.compile(
    "Add|CeilDiv|CeilToInt|CleanDiv|Eq|Float|FloatTrueDiv|FloorDiv|FloorToInt|Ge|Gt|Identity|IntTrueDiv|Integer|Le|Lt"
    "|Max|Min|Mod|ModularIndexing|Mul|Ne|Pow|PowByNatural|PythonMod|Rational|Symbol|ToFloat|TruncToInt"
)
"""What an expression of sizes may call."""

TREES = (None, "builtins.tuple", "builtins.list", "builtins.dict")


def check_pt2(path: Path) -> None:
    """Raises ExportError where the file is no .pt2 archive, or holds what `featherseg export` never writes."""
    try:
        reader = torch._C.PyTorchFileReader(str(path))  # the one that torch.export.load reads with
        found = sorted(_foreign(reader))
    except (RuntimeError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ExportError(f"{path} is no .pt2 file that can be read ({str(error).splitlines()[0]}).") from None
    if found:
        raise ExportError(
            f"{path} was not written by `featherseg export`, and loading it could run code that it brings: it holds "
            f"{', '.join(found[:3])}. Only files of tensors and plain operators are opened."
        )


def _foreign(reader: Any) -> set[str]:
    """What was found in the archive that is not ours, in words."""
    names = reader.get_all_records()
    foreign = {f"the member {name}" for name in names if not MEMBERS.fullmatch(name)}
    if foreign or len(set(names)) < len(names):
        return foreign or {"one member twice"}
    if reader.get_record("data/sample_inputs/model.pt"):
        foreign.add("a pickled example input")
    for kind in ("weights", "constants"):
        config = json.loads(reader.get_record(f"data/{kind}/model_{kind}_config.json"))
        foreign |= {f"pickled {kind}" for row in config["config"].values() if row["use_pickle"] is not False}
    for key, value in _entries(json.loads(reader.get_record("models/model.json"))):
        if sentence := _suspect(key, value):
            foreign.add(sentence)
    return foreign


def _entries(tree: Any) -> Iterator[tuple[str, Any]]:
    """Every (key, value) of every object in a JSON tree."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield key, value
            yield from _entries(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _entries(value)


def _suspect(key: str, value: Any) -> str | None:
    """What is wrong with one entry of the graph's JSON, in words; None where it is harmless."""
    if key in ("target", "as_operator"):
        return None if OPERATORS.fullmatch(str(value)) else f"the operator {str(value)[:60]!r}"
    if key == "expr_str":
        return None if _plain_expression(str(value)) else f"the expression {str(value)[:60]!r}"
    if key == "range_constraints":
        return None if all(re.fullmatch(r"\w+", name) for name in value) else "an expression in range_constraints"
    if key in ("guards_code", "metadata", "as_custom_obj", "class_fqn"):
        return f"an entry {key!r}" if value else None
    if key in ("in_spec", "out_spec"):
        kinds = [row for name, row in _entries(json.loads(value)) if name == "type"]
        return None if all(kind in TREES for kind in kinds) else "a tree of a foreign type"
    return None


def _plain_expression(text: str) -> bool:
    """Arithmetic of numbers and named sizes with FUNCTIONS, nothing else."""
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError:
        return False
    return all(_plain_node(node) for node in ast.walk(tree))


def _plain_node(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and FUNCTIONS.fullmatch(node.func.id) is not None
    if isinstance(node, ast.Name):
        return re.fullmatch(rf"[su]\d+|{FUNCTIONS.pattern}", node.id) is not None
    if isinstance(node, ast.Constant):
        return not isinstance(node.value, str) or re.fullmatch(r"[\w.+-]*", node.value) is not None
    kinds = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.operator, ast.unaryop, ast.cmpop)
    return isinstance(node, (*kinds, ast.keyword, ast.Load))
