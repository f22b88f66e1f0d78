"""Names in files of format 1, so that old run folders and exported files keep loading."""

from typing import Any

NEW_NAMES = {
    "test_fit": "test_resize",
    "fit": "resize",
    "mode": "inference",
    "start": "init",
    "truth": "ground-truth",
}
NEW_NAMES["target"] = "format"  # of parity.json
OLD_EXAMPLES = "pictures"  # the folder now called examples
OLD_SPLITS = {"fit": "subtrain"}  # of CamVid


def with_new_names(values: Any) -> Any:
    """Return JSON values with the keys, and CamVid's split, renamed as in format 2."""
    if isinstance(values, list):
        return [with_new_names(value) for value in values]
    if not isinstance(values, dict):
        return values
    split = values.get("train_split")
    new_split = (
        {"train_split": OLD_SPLITS[split]}
        if values.get("name") == "camvid" and split in OLD_SPLITS
        else {}
    )
    return {
        NEW_NAMES.get(key, key): with_new_names(value)
        for key, value in {**values, **new_split}.items()
    }


def with_old_recipe(values: Any) -> Any:
    """Return a run's record with the keys of older recipes as today's.

    A recipe without a rule for splits by share gets the rule of then, `train.tensorboard` becomes
    `train.loggers`, and teachers, which taught only in training, are left out.
    """
    match values:
        case {"recipe": {"data": {"split_by": "sequence", **others}, **recipe}}:
            data = {**others, "split_by": "sequence-1"}
            values = {**values, "recipe": {**recipe, "data": data}}
        case {"recipe": {"data": {"name": str(name), **others}, **recipe}}:
            if "split_by" not in others and name.endswith(".toml"):
                data = {"name": name, **others, "split_by": "hash"}
                values = {**values, "recipe": {**recipe, "data": data}}
    match values:
        case {"recipe": {"teacher": _, **recipe}, "teachers": _, **others}:
            values = {**others, "recipe": recipe}
    match values:
        case {"recipe": {"train": {"tensorboard": bool(on), **others}, **recipe}}:
            train = {**others, "loggers": ["tensorboard"] if on else []}
            values = {**values, "recipe": {**recipe, "train": train}}
    return values
