import shlex
import subprocess
import sys

import pytest

from featherseg.cli import VERBS
from featherseg.cli.hints import (
    VERBS_ELSEWHERE,
    refuse_foreign_options,
    refuse_foreign_verb,
    translate,
)
from featherseg.core.errors import ConfigError

KNOWN = {"--data", "--out", "-o", "--set", "--minutes"}


@pytest.mark.parametrize(
    ("foreign", "ours"),
    [
        ("m --epochs 10", "m --set train.epochs=10"),
        ("m --epochs=10 --batch-size 4", "m --set train.epochs=10 --set train.batch_size=4"),
        ("m --imgsz 640", "m --set 'augment.crop=[640, 640]'"),
        ("m --img_size 512 --minutes 5", "m --set 'augment.crop=[512, 512]' --minutes 5"),
        (
            "data=x.yaml model=m epochs=3 project=runs/a",
            "m --data x.yaml --set train.epochs=3 --out runs/a",
        ),
        ("--config m.toml --work-dir w", "m.toml --out w"),
        # what is ours stays
        ("m --data d --set train.epochs=3 -o r", None),
        ("m --set lr=1", None),
        ("m --name data=1", None),
        ("m --epochs", None),
    ],
)
def test_words_of_other_tools_become_ours(foreign, ours):
    words = shlex.split(foreign)
    assert translate("train", words, KNOWN) == shlex.split(ours or foreign)


def test_a_file_of_that_name_is_no_word_of_another_tool(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "source=3.png").touch()
    assert translate("predict", ["run", "source=3.png"], KNOWN) == ["run", "source=3.png"]
    assert translate("predict", ["run", "source=4.png"], KNOWN) == ["run", "4.png"]
    words = ["--source", "4.png", "--weights", "run"]
    assert translate("predict", words, KNOWN) == ["run", "4.png"]


def test_keys_of_a_recipe_are_options_of_train_alone():
    assert translate("evaluate", ["run", "--batch", "4"], KNOWN) == ["run", "--batch", "4"]


def test_the_message_names_the_option_and_the_command():
    with pytest.raises(ConfigError, match=r"`featherseg train` has no --epochs\. Run:\n") as error:
        refuse_foreign_options("train", ["my model", "--epochs", "3"], KNOWN)
    command = str(error.value).splitlines()[-1]
    assert shlex.split(command) == ["featherseg", "train", "my model", "--set", "train.epochs=3"]
    refuse_foreign_options("train", ["m", "--data", "d"], KNOWN)

    with pytest.raises(ConfigError, match=r"there is no 'val'\. Run:\nfeatherseg evaluate runs/a$"):
        refuse_foreign_verb(["val", "runs/a"], VERBS)
    for verb in (*VERBS, "nothing", "--help"):
        refuse_foreign_verb([verb], VERBS)
    assert not set(VERBS_ELSEWHERE) & set(VERBS)
    assert set(VERBS_ELSEWHERE.values()) <= set(VERBS)


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("val runs/a --data d", "featherseg evaluate runs/a --data d"),
        ("train frm-lite0 --epochs 3", "featherseg train frm-lite0 --set train.epochs=3"),
    ],
)
def test_the_command_line_refuses_with_the_right_command(words, command):
    done = subprocess.run(
        [sys.executable, "-m", "featherseg", *shlex.split(words)], capture_output=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.decode("utf-8").rstrip().endswith(f"Run:\n{command}")
