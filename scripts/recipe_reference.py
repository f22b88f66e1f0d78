"""Write docs/recipe.md from the tables: python scripts/recipe_reference.py (a test compares them).

A key's effect is the text below it in its class.
"""

import ast
import inspect
from functools import cache
from pathlib import Path
from textwrap import dedent
from typing import Any, get_args

from featherseg.core.config import Config, toml_value
from featherseg.recipe.reading import parse_recipe, read_recipe
from featherseg.recipe.tables import MACHINE_KEYS, Recipe

PAGE = Path(__file__).parents[1] / "docs" / "recipe.md"
TUNED = "frm-lite0-light"
HEAD = f"""# Recipe keys

Written from the tables by `python scripts/recipe_reference.py`. A recipe is a TOML file of these
tables; keys that it leaves out have the default. `--set` changes a key for one training:

```sh
featherseg train frm-lite0-light --data yard --set augment.copy_paste=0.5 --set train.epochs=40
```

"Fine-tuning" is the value in the recipe of most models, `{TUNED}` among them, if only the
model is named; empty: the default. `resolved.json` of a run lists the value of every key. Sizes are
(height, width). `featherseg train --resume` may change what does not change the result:
KEYS.
"""


def page() -> str:
    """Return the page as Markdown."""
    keys = ", ".join(f"`{key}`" for key in sorted(MACHINE_KEYS))
    parts = [HEAD.replace("KEYS", keys)]
    tuned = parse_recipe(read_recipe(TUNED)).model_dump(mode="json")
    for name, field in Recipe.model_fields.items():
        table = next(kind for kind in (*get_args(field.annotation), field.annotation) if kind)
        parts.append(f"## [{name}]\n\n{_sentence(table)}\n")
        parts.append("| key | effect | values | default | fine-tuning |\n|---|---|---|---|---|")
        properties = table.model_json_schema()["properties"]
        for key, schema in properties.items():
            info = table.model_fields[key]
            if info.is_required():
                default = "required"
            else:
                default = _value(info.get_default(call_default_factory=True))
            value = _value((tuned[name] or {}).get(key))
            differs = tuned[name] is not None and key != "name" and value != default
            changed = value if differs else ""
            cells = (f"`{key}`", effect(table, key), _values(schema), default, changed)
            parts.append(f"| {' | '.join(cells)} |")
        parts.append("")
    parts.append(END)
    return "\n".join(parts)


END = """The other keys of `[model]` are settings of its architecture, such as `context` of FRM's
models. `backbone` takes `timm:NAME` too ([timm](start/other-packages.md#timm)). With a key that
the model lacks, `train` lists those that it has.
"""


def effect(table: type[Config], key: str) -> str:
    """Return the text below a key in the class that declares it, or raise KeyError."""
    for kind in table.__mro__:
        if key in vars(kind).get("__annotations__", {}):
            return _texts(kind)[key]
    raise KeyError(key)


@cache
def _texts(kind: type) -> dict[str, str]:
    """Return key -> text below it, of one class."""
    (definition,) = ast.parse(dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for statement, below in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(below, ast.Expr):
            assert isinstance(statement.target, ast.Name)
            texts[statement.target.id] = " ".join(ast.literal_eval(below.value).split())
    return texts


def _sentence(table: type[Config]) -> str:
    """Return what stands behind the name in the docstring of a table, as a sentence."""
    text = inspect.cleandoc(table.__doc__ or "").partition("\n\n")[0].partition(": ")[2]
    return text[:1].upper() + text[1:]


def _value(value: Any) -> str:
    """Return a value as in TOML; None is unset."""
    if value is None:
        return "unset"
    if value == {}:
        return "`{}`"
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    return f"`{toml_value(value)}`"


def _values(schema: dict[str, Any]) -> str:
    """Return the values that a schema of JSON allows, in words."""
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
    return " or ".join(map(_kind, kinds))


def _kind(schema: dict[str, Any]) -> str:
    if words := schema.get("enum", [schema["const"]] if "const" in schema else []):
        return ", ".join(f"`{word}`" for word in words)
    kind = schema["type"]
    if kind == "array" and "prefixItems" in schema:
        return f"pair of: {_kind(schema['prefixItems'][0])}"
    if kind == "array":
        return f"list of: {_kind(schema['items'])}"
    return {"string": "text", "boolean": "`true`, `false`", "object": "table"}.get(
        kind, f"{kind}{_bounds(schema)}"
    )


def _bounds(schema: dict[str, Any]) -> str:
    """Return the bounds of a number, such as ` 0 to 1` or ` > 0`."""
    if schema["type"] == "integer":  # exclusive bounds of integers become inclusive ones
        changed = {"minimum": schema.get("exclusiveMinimum", -1) + 1} | schema
        if "exclusiveMaximum" in schema:
            changed["maximum"] = schema["exclusiveMaximum"] - 1
        schema = {key: changed[key] for key in changed if not key.startswith("exclusive")}
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f" {low:,g} to {high:,g}" if high < 1e6 else f" ≥ {low:,g}"
    signs = (("≥", low), (">", above), ("≤", high), ("<", below))
    texts = [f"{sign} {bound:,g}" for sign, bound in signs if bound is not None and bound < 1e6]
    return f" {', '.join(texts)}" if texts else ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
