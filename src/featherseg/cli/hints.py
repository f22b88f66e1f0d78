"""Commands in the words of other tools: what to run instead. They are never guessed and run."""

import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

from featherseg.core.errors import ConfigError

VERBS_ELSEWHERE = {
    "val": "evaluate",
    "validate": "evaluate",
    "test": "evaluate",
    "eval": "evaluate",
    "infer": "predict",
    "inference": "predict",
    "segment": "predict",
    "finetune": "train",
}
"""A word of other tools -> the verb here."""

RECIPE_KEYS = {
    "epochs": "train.epochs",
    "iters": "train.steps",
    "max-iters": "train.steps",
    "steps": "train.steps",
    "batch": "train.batch_size",
    "batch-size": "train.batch_size",
    "lr": "train.lr",
    "lr0": "train.lr",
    "learning-rate": "train.lr",
    "weight-decay": "train.weight_decay",
    "optimizer": "train.optimizer",
    "patience": "train.patience",
    "seed": "train.seed",
    "workers": "data.workers",
    "num-workers": "data.workers",
    "imgsz": "augment.crop",
    "img-size": "augment.crop",
    "image-size": "augment.crop",
    "crop-size": "augment.crop",
}
"""An option of other tools' trainings -> the key of a recipe."""

OPTIONS = {
    "project": "--out",
    "output": "--out",
    "output-dir": "--out",
    "save-dir": "--out",
    "work-dir": "--out",
    "data": "--data",
    "data-dir": "--data",
    "dataset": "--data",
}
"""An option of other tools -> the option here."""

MODELS = ("model", "weights", "checkpoint", "ckpt", "config")
"""Options of other tools whose value is the first argument here."""

INPUTS = ("source", "input")
"""Options of other tools whose value is another argument here."""


def refuse_foreign_verb(words: Sequence[str], verbs: Collection[str]) -> None:
    """Raise ConfigError if the first word of a command is another tool's, with ours instead."""
    if words and words[0] not in verbs and words[0] in VERBS_ELSEWHERE:
        verb = VERBS_ELSEWHERE[words[0]]
        _refuse(f"there is no {words[0]!r}", verb, translate(verb, words[1:], ()))


def refuse_foreign_options(verb: str, words: Sequence[str], known: Collection[str]) -> None:
    """Raise ConfigError if options of other tools follow the verb, with ours instead.

    known: The verb's own options, `--data` and `-o`.
    """
    if (ours := translate(verb, words, known)) != [*words]:
        foreign = next(word for word, own in zip(words, [*ours, ""], strict=False) if word != own)
        _refuse(f"`featherseg {verb}` has no {foreign.partition('=')[0]}", verb, ours)


def translate(verb: str, words: Sequence[str], known: Collection[str]) -> list[str]:
    """Return the words of a command with other tools' options in our form, the model first."""
    models, ours, rest = list[str](), list[str](), list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        bare = name.removeprefix("--").replace("_", "-")
        is_option = name.startswith("--") and name not in known
        is_pair = bool(equals) and not name.startswith("-") and not Path(word).exists()
        is_key = verb == "train" and bare in RECIPE_KEYS
        is_foreign = is_key or bare in {*OPTIONS, *MODELS, *INPUTS}
        # the value of an option before it is ours: `--set lr=1`
        if not (is_foreign and (is_option or is_pair)) or (
            is_pair and ours and ours[-1].startswith("-")
        ):
            ours.append(word)
            continue
        if not equals:
            if not rest:
                ours.append(word)
                break
            value = rest.pop(0)
        if is_key:
            is_size = RECIPE_KEYS[bare] == "augment.crop" and value.isdigit()
            ours += ["--set", f"{RECIPE_KEYS[bare]}={f'[{value}, {value}]' if is_size else value}"]
        elif bare in OPTIONS:
            ours += [OPTIONS[bare], value]
        else:
            (models if bare in MODELS else ours).append(value)
    return [*models, *ours]


def _refuse(reason: str, verb: str, words: Sequence[str]) -> None:
    raise ConfigError(f"{reason}. Run:\n{shlex.join(['featherseg', verb, *words])}")
