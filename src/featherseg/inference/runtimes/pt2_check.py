"""Whether a .pt2 file may be opened: torch.export.load runs code that a file brings, so what could be code is refused.

As torch 2.13 reads such a file, code can hide in pickled weights and constants, in the pickled example input (its
`weights_only` gives way), in expressions of sizes (sympy evaluates them), in guards, in the names of operators (any
attribute of `torch` is taken), and in every name of a value, an argument or a parameter: the generated `forward` is
made of them. So nothing passes but what `featherseg export` writes: known keys, each with values of its own kind,
plain identifiers for names, aten's operators from a list, tensors as raw bytes that lie within the file.
"""

import ast
import json
import keyword
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from featherseg.core.errors import ExportError
from featherseg.core.wording import visible

MEMBERS = re.compile(
    r"(models/model\.json|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt|extra/facts\.json"
    r"|archive_format|archive_version|byteorder|version|\.data/(version|serialization_id|alignment)|\.format_version"
    r"|\.storage_alignment)"
)
_ATEN_NAMES = """
__and__ _assert_tensor_metadata abs adaptive_avg_pool2d adaptive_max_pool2d add addcmul addmm alias all amax
amin any arange argmax avg_pool1d avg_pool2d baddbmm batch_norm bitwise_and bitwise_not bitwise_or bmm
broadcast_tensors cat ceil chunk clamp clamp_max clamp_min clone contiguous conv1d conv2d conv_transpose1d
conv_transpose2d cumsum detach div dropout einsum elu eq erf exp expand feature_dropout flatten flip floor
floor_divide full full_like gather ge gelu grid_sampler group_norm gt hardsigmoid hardswish hardtanh hstack
im2col index index_select instance_norm isnan layer_norm le leaky_relu lerp lift_fresh_copy linalg_vector_norm
linear log log_softmax logical_and logical_not logical_or lt mT masked_fill masked_select matmul matrix_H max
max_pool2d maximum mean min minimum mish mm movedim mul narrow ne neg norm numpy_T ones ones_like pad permute
pixel_shuffle pixel_unshuffle pow prelu prod reciprocal relu relu6 remainder repeat reshape roll round rsqrt
rsub scaled_dot_product_attention select selu sigmoid sign silu slice softmax softplus split split_with_sizes
sqrt square squeeze stack std sub sum swapaxes sym_size tanh tile to topk transpose trunc type_as unbind
unflatten unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
upsample_nearest2d var view view_as vstack where zeros zeros_like
"""
ATEN = frozenset(_ATEN_NAMES.split())
"""aten's operators that the models of the catalogue are written with, and near relatives: tensors in, tensors out."""

OPERATORS = re.compile(
    r"torch\.ops\.aten\.(\w+)\.\w+|torch\.sym_(max|min|int|float|not|ite)|math\.(ceil|floor)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|getitem|eq|ne|lt|le|gt|ge|and_|or_)"
    r"|torch\.ops\.higher_order\.wrap_with_(autocast|set_grad_enabled)"
)
FUNCTIONS = re.compile(
    "Add|CeilDiv|CeilToInt|CleanDiv|Eq|Float|FloatTrueDiv|FloorDiv|FloorToInt|Ge|Gt|Identity|IntTrueDiv|Integer|Le|Lt"
    "|Max|Min|Mod|ModularIndexing|Mul|Ne|PythonMod|Rational|Symbol|ToFloat|TruncToInt"
)
"""What an expression of sizes may call: nothing that grows faster than its text, as a power would."""

TREES = (None, "builtins.tuple", "builtins.list", "builtins.dict")
MOST_JSON = 2**26
"""Bytes of the graph; that of the largest model has 4 million."""

MOST_EXPRESSION = 20_000
"""Letters of an expression of sizes; ours have up to a thousand."""

_NAME = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]{0,199}", re.ASCII)
_PATH = re.compile(r"(?!__)\w{1,200}(\.(?!__)\w{1,200})*", re.ASCII)
_SYMBOL = re.compile(r"[su]\d{1,5}", re.ASCII)
_WORD = re.compile(r"[\w.+,> -]{0,64}", re.ASCII)
_ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 12: 1, 13: 2}  # by torch's number of the type

_KINDS: dict[str, tuple[type, ...] | re.Pattern[str]] = {
    key: kind
    for keys, kind in (
        ("name as_name forward_arg_names user_input_name", _NAME),
        ("parameter_name buffer_name tensor_constant_name fqn", _PATH),
        ("as_string as_strings torch_version verifiers", _WORD),
        ("type", re.compile("cpu")),
        ("as_int as_ints dtype layout kind min_val max_val minor major index as_scalar_type as_memory_format", (int,)),
        ("as_layout aten", (int,)),
        ("as_float as_floats", (int, float)),
        ("as_bool as_bools as_none requires_grad persistent", (bool,)),
        ("is_single_tensor_return is_hop_single_tensor_return", (bool,)),
        ("graph_module graph inputs outputs nodes arg as_tensor as_tensors as_optional_tensor as_graph", (dict,)),
        ("as_optional_tensors as_sym_int as_sym_ints as_sym_float as_sym_floats as_sym_bool as_expr", (dict,)),
        ("as_sym_bools hint", (dict,)),
        ("as_device device sizes strides storage_offset signature input_specs output_specs user_input", (dict,)),
        ("user_output parameter buffer tensor_constant module_call_graph schema_version constant_input value", (dict,)),
        ("opset_version", (dict,)),
        ("guards_code metadata as_custom_obj class_fqn custom_obj_values treespec_namedtuple_fields", ()),
    )
    for key in keys.split()
}
"""Each key of torch's schema (torch/_export/serde/schema.py), and what may stand there; () is nothing at all."""

_TABLES = {
    **dict.fromkeys(("tensor_values", "sym_int_values", "sym_float_values", "sym_bool_values"), _NAME),
    "range_constraints": _SYMBOL,
}
"""Those whose value is an object with keys of the file's own, and what these are."""


def check_pt2(path: Path) -> None:
    """Raises ExportError where the file is no .pt2 archive, or holds what `featherseg export` never writes."""
    try:
        reader = torch._C.PyTorchFileReader(str(path))  # the one that torch reads with
        found = sorted(_foreign(reader, path.stat().st_size))
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        reason = visible((str(error) or type(error).__name__).splitlines()[0])
        raise ExportError(f"{path} is no .pt2 file that can be read ({reason}).") from None
    if found:
        raise ExportError(
            f"{path} was not written by `featherseg export`, and loading it could run code that it brings: it holds "
            f"{', '.join(found[:3])}. Only files of tensors and plain operators are opened."
        )


def _foreign(reader: Any, size: int) -> set[str]:
    """What was found in the archive that is not ours."""
    names = reader.get_all_records()
    foreign = {f"the member {name[:60]!r}" for name in names if not MEMBERS.fullmatch(name)}
    if foreign or len(set(names)) < len(names):
        return foreign or {"one member twice"}
    lengths = {name: reader.get_record_size(name) for name in names}
    if sum(lengths.values()) > size:
        return {"members that are packed, or share their bytes"}
    if lengths["data/sample_inputs/model.pt"]:
        foreign.add("a pickled example input")
    configs = [f"data/{kind}/model_{kind}_config.json" for kind in ("weights", "constants")]
    if max(lengths[name] for name in ("models/model.json", "extra/facts.json", *configs)) > MOST_JSON:
        return {f"a description of more than {MOST_JSON:,} bytes"}
    for kind, name in zip(("weights", "constants"), configs, strict=True):
        config = _read(reader.get_record(name))
        for tensor, row in config["config"].items():
            if message := _outside(f"data/{kind}/{row['path_name']}", row, lengths):
                foreign.add(message)
            if not _is(_PATH, tensor):
                foreign.add(f"the name {tensor[:60]!r}")
    for key, value in _entries(_read(reader.get_record("models/model.json"))):
        if message := _suspect(key, value):
            foreign.add(message)
    return foreign


def _read(content: bytes | str) -> Any:
    """JSON in which no key stands twice."""

    def table(rows: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(rows)) < len(rows):
            raise ValueError("a key stands twice")
        return found

    return json.loads(content, object_pairs_hook=table)


def _outside(member: str, row: dict[str, Any], lengths: dict[str, int]) -> str | None:
    """What is wrong with a tensor's row: it is pickled, of a foreign kind, or beyond its member's bytes."""
    if row["use_pickle"] is not False:
        return f"pickled {member.split('/')[1]}"
    meta = row["tensor_meta"]
    known = {"path_name", "is_param", "use_pickle", "tensor_meta"}
    if set(row) != known or meta["device"] != {"type": "cpu", "index": None}:
        return "a tensor of a foreign kind"
    sizes, strides = ([one["as_int"] for one in meta[key]] for key in ("sizes", "strides"))
    numbers = [*sizes, *strides, meta["storage_offset"]["as_int"]]
    if any(type(number) is not int or number < 0 for number in numbers) or len(sizes) != len(strides):
        return "a tensor of a foreign shape"
    last = numbers[-1] + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    needed = 0 if 0 in sizes else (last + 1) * _ITEM_BYTES[meta["dtype"]]
    if member not in lengths or needed > lengths[member] or max(sizes, default=0) > max(lengths[member], 1):
        return "a tensor beyond its bytes"
    return None


def _entries(tree: Any) -> Iterator[tuple[str, Any]]:
    """Every (key, value) of every object in a JSON tree; the names in one of _TABLES are no keys."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield key, value
            yield from _entries(list(value.values()) if key in _TABLES else value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _entries(value)


def _suspect(key: str, value: Any) -> str | None:
    """What is wrong with one entry of the graph's JSON; None where it is of a known kind."""
    values = value if isinstance(value, list) else [value]
    shown = repr(value)[:60]
    if key in _TABLES:
        return next((f"the name {name[:60]!r}" for name in value if not _is(_TABLES[key], name)), None)
    if key in ("target", "as_operator"):
        return None if _is_operator(value) else f"the operator {shown}"
    if key == "expr_str":
        return None if _plain_expression(value) else f"the expression {shown}"
    if key in ("in_spec", "out_spec"):
        version, tree = _read(value)
        return None if type(version) is int and _plain_tree(tree) else "a tree of a foreign type"
    if key not in _KINDS:
        return f"an unknown entry {key[:60]!r}"
    kind = _KINDS[key]
    if kind == ():
        return f"an entry {key!r}" if value else None
    if isinstance(kind, re.Pattern):
        plain = all(one is None or one == "" or _is(kind, one) for one in values)
    elif kind == (dict,):
        plain = all(one is None or isinstance(one, dict) for one in values)
    else:
        plain = all(one is None or (type(one) in kind and abs(one) <= 2**63) for one in values)
        plain = plain or (float in kind and value in ("Infinity", "-Infinity", "NaN"))
    return None if plain else f"the {'name' if kind in (_NAME, _PATH) else 'entry'} {key} = {shown}"


def _is(pattern: re.Pattern[str], text: Any) -> bool:
    """Whether it is text of that form, and no word of Python's own."""
    return (
        isinstance(text, str)
        and pattern.fullmatch(text) is not None
        and not any(map(keyword.iskeyword, text.split(".")))
    )


def _is_operator(text: Any) -> bool:
    found = OPERATORS.fullmatch(text) if isinstance(text, str) else None
    return found is not None and (found[1] is None or found[1] in ATEN)


def _plain_tree(tree: Any) -> bool:
    """A tree of tuples, lists and dicts, whose keys are names: torch makes arguments of them."""
    if not isinstance(tree, dict) or set(tree) != {"type", "context", "children_spec"} or tree["type"] not in TREES:
        return False
    keys = _read(tree["context"]) if isinstance(tree["context"], str) else tree["context"]
    if keys is not None and not (isinstance(keys, list) and all(_is(_NAME, key) for key in keys)):
        return False
    return all(_plain_tree(child) for child in tree["children_spec"])


def _plain_expression(text: Any) -> bool:
    """Arithmetic of numbers and named sizes with FUNCTIONS, nothing else."""
    if not isinstance(text, str) or len(text) > MOST_EXPRESSION:
        return False
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except SyntaxError:
        return False
    return all(_plain_node(node) for node in nodes)


def _plain_node(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and FUNCTIONS.fullmatch(node.func.id) is not None
    if isinstance(node, ast.Name):
        return _SYMBOL.fullmatch(node.id) is not None or FUNCTIONS.fullmatch(node.id) is not None
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return re.fullmatch(r"[\w.+-]{0,64}", node.value, re.ASCII) is not None
        return isinstance(node.value, (bool, float)) or (isinstance(node.value, int) and node.value < 2**63)
    if isinstance(node, ast.keyword):  # the precision of a Float is memory
        value = node.value
        return isinstance(value, ast.Constant) and (isinstance(value.value, bool) or value.value in range(65))
    arithmetic = (ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.UnaryOp, ast.USub)
    return isinstance(node, (ast.Expression, ast.Load, ast.Compare, ast.cmpop, *arithmetic))
