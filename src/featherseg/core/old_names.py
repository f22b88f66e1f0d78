"""Names in files of format 1, so that run folders and exported files that were written with them keep loading."""

from typing import Any

NEW_NAMES = {"test_fit": "test_resize", "fit": "resize", "mode": "inference", "start": "init", "truth": "ground-truth"}
NEW_NAMES["target"] = "format"  # of parity.json
OLD_EXAMPLES = "pictures"  # the folder that is called examples now
OLD_SPLITS = {"fit": "subtrain"}  # of CamVid


def with_new_names(values: Any) -> Any:
    """JSON values with their keys, and CamVid's split, as they are called since format 2."""
    if isinstance(values, list):
        return [with_new_names(value) for value in values]
    if not isinstance(values, dict):
        return values
    split = values.get("train_split")
    own = {"train_split": OLD_SPLITS[split]} if values.get("name") == "camvid" and split in OLD_SPLITS else {}
    return {NEW_NAMES.get(key, key): with_new_names(value) for key, value in {**values, **own}.items()}


def with_old_split(values: Any) -> Any:
    """A run's record; of one from before it said which rule made its splits by share, with the rule of then."""
    match values:
        case {"recipe": {"data": {"split_by": "sequence", **data}, **recipe}}:
            return {**values, "recipe": {**recipe, "data": {**data, "split_by": "sequence-1"}}}
        case {"recipe": {"data": {"name": str(name), **data}, **recipe}} if "split_by" not in data:
            if name.endswith(".toml"):
                return {**values, "recipe": {**recipe, "data": {"name": name, **data, "split_by": "hash"}}}
    return values


def with_loggers(values: Any) -> Any:
    """A run's record; `train.tensorboard` of one from before there were other trackers is one of `train.loggers`."""
    match values:
        case {"recipe": {"train": {"tensorboard": bool(on), **others}, **recipe}}:
            train = {**others, "loggers": ["tensorboard"] if on else []}
            return {**values, "recipe": {**recipe, "train": train}}
    return values
