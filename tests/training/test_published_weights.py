"""Published weights become a run or a message; the run says everywhere that it is untrained."""

import hashlib
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.golden.peer_golden import golden
from support.models.small_training import Silent, request
from support.processes.faulty_disk import FaultyDisk

import featherseg
from featherseg import models
from featherseg.api import report
from featherseg.backbones.weights import find_pretrained, load_official, strip_prefix
from featherseg.core.errors import ConfigError, FeathersegError, RunError, UnknownName, WeightsError
from featherseg.data.datasets.camvid import CAMVID_LICENCE
from featherseg.models import MODELS
from featherseg.runs.run import RESOLVED, open_run
from featherseg.training import train
from featherseg.training.published_weights import (
    ImportRequest,
    combined_licence,
    write_imported_run,
)

pytestmark = pytest.mark.usefixtures("tiny", "safe_torch")

CLASSES = 8  # of shapes


def untrained(classes: int = CLASSES, options: dict | None = None) -> torch.nn.Module:
    """A model whose every tensor differs from what another build would hold."""
    torch.manual_seed(7)
    return models.build("frm-lite0", classes, options=options).eval()


@pytest.fixture(scope="session")
def model():
    return untrained()


@pytest.fixture
def file(tmp_path: Path, model) -> Path:
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def asked(file: Path, *overrides: str, **changes) -> ImportRequest:
    values = {"model": "frm-lite0", "data": "shapes", "licence": "Apache-2.0", **changes}
    return ImportRequest(file, overrides=overrides, **values)


def imported(tmp_path: Path, file: Path, *overrides: str, **changes):
    return write_imported_run(
        asked(file, *overrides, **changes), tmp_path / "run", lambda text: None
    )


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("name", "prefix"), [("w.pth.tar", "module."), ("w.ckpt", "model.net."), ("w.safetensors", "")]
)
def test_an_imported_run_gives_the_logits_of_the_model_that_was_saved(
    tmp_path, model, name, prefix
):
    state = {prefix + key: value for key, value in model.state_dict().items()}
    if name.endswith("safetensors"):
        save_file(state, tmp_path / name)
    else:
        torch.save({"state_dict": state, "epoch": 3}, tmp_path / name)
    said = []
    write_imported_run(asked(tmp_path / name), tmp_path / "run", said.append)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(open_run(tmp_path / "run").model(images).logits, model(images).logits)
    assert said == ([f"removed the prefix {prefix!r} from all keys"] if prefix else [])


def test_a_prefix_that_one_key_lacks_stays():
    state = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    assert strip_prefix(state) == (state, "")


# {model: (reference, prefix by the authors' training, unused keys beside the model's)}
TRAINED = {
    "pidnet-s": ("pidnet_s", "module.model.", ["module.sem_loss.criterion.weight"]),
    "ddrnet-23-slim": ("ddrnet_23_slim", "model.", ["loss.criterion.weight"]),
    "sctnet-s": (
        "sctnet_s",
        "",
        [f"auxiliary_head.1.teacher_head.convs.{i}.bn.bias" for i in range(7)],
    ),
}


def as_saved(model: str) -> dict[str, torch.Tensor]:
    """The reference's weights in the layout of that table."""
    name, prefix, unused = TRAINED[model]
    state = {prefix + key: value.float() for key, value in golden(name).state().items()}
    state = {key.replace("decoder.", "decode_head.", 1): value for key, value in state.items()}
    return state | {key: torch.ones(19) for key in unused}


@pytest.mark.parametrize("model", TRAINED)
def test_checkpoints_load_as_their_authors_training_saves_them(tmp_path, model):
    name, _, unused = TRAINED[model]
    torch.save({"state_dict": as_saved(model)}, tmp_path / "w.pth")
    said = []
    run = write_imported_run(
        asked(tmp_path / "w.pth", model=model, data="cityscapes"), tmp_path / "run", said.append
    )
    expected = models.build(model, 19)
    load_official(expected, golden(name).state())
    found = run.model.state_dict()
    assert all(
        torch.equal(found[k], v)
        for k, v in expected.state_dict().items()
        if not k.startswith("aux_heads.")
    )
    assert run.info.loaded["unused"] == unused
    keys, more = ("7 keys", " and 2 more") if model == "sctnet-s" else ("1 key", "")
    assert said[-1] == f"{keys} of the file not used here: {', '.join(unused[:5])}{more}"


@pytest.mark.seconds
@pytest.mark.parametrize("model", ["pidnet-s", "ddrnet-23-slim"])
def test_beside_the_keys_of_losses_everything_must_fit(tmp_path, model):
    state = as_saved(model)
    first = next(iter(state))
    torch.save({first.replace("conv1", "foreign"): state.pop(first)} | state, tmp_path / "w.pth")
    with pytest.raises(WeightsError) as refused:
        imported(tmp_path, tmp_path / "w.pth", model=model, data="cityscapes")
    assert "missing: backbone.stem.0." in str(refused.value)
    assert "unexpected: foreign.0." in str(refused.value)


@pytest.mark.seconds
def test_the_run_says_where_its_weights_come_from_and_that_they_were_not_trained_here(
    tmp_path, file
):
    run = imported(tmp_path, file, licence=" MIT ")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert run.info.loaded == {
        "imported": "weights.pth",
        "sha256": digest,
        "licence": "MIT",
        "unused": [],
    }
    assert (run.licence, run.info.image_size, len(run.classes)) == ("MIT", (256, 512), CLASSES)
    assert open_run(run.path).info == run.info
    card, recipe = ((run.path / name).read_text() for name in ("card.md", "recipe.toml"))
    assert f"imported from `weights.pth` (sha256 {digest}), not trained here" in card
    assert "\n---\n\n# run\n" in card
    assert "trained by featherseg" not in card
    assert "epochs" not in card
    assert recipe.startswith(
        f"# The weights of this run were imported from 'weights.pth' (sha256 {digest}).\n"
    )
    page = report(run.path).path.read_text()
    assert "imported from weights.pth, not trained here" in page
    assert "were not trained with them" in page
    assert "seed 0." not in page


def test_terms_of_the_data_that_restrict_stand_before_those_of_the_weights():
    assert (
        combined_licence("MIT", CAMVID_LICENCE) == f"{CAMVID_LICENCE}; the weights themselves: MIT"
    )
    assert combined_licence("MIT", "Apache-2.0") == "MIT"


@pytest.mark.seconds
def test_settings_of_the_model_are_given_as_in_a_recipe(tmp_path, file):
    torch.save(untrained(options={"context": "none"}).state_dict(), tmp_path / "none.pth")
    run = imported(tmp_path, tmp_path / "none.pth", "model.context=none")
    assert run.recipe.model.options == {"context": "none"}
    with pytest.raises(WeightsError, match=r"unexpected: context\.attention"):
        write_imported_run(asked(file, "model.context=none"), tmp_path / "other", print)


def test_every_key_that_does_not_fit_is_named_and_nothing_is_written(tmp_path, model):
    state = dict(model.state_dict())
    del state["fuse.0.weight"]
    state["head.bias"] = torch.zeros(3)
    state["backbone.stem.0.weight"] = torch.zeros(1, 2)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError) as refused:
        imported(tmp_path, tmp_path / "w.pth")
    for sentence in (
        f"{tmp_path / 'w.pth'}: these weights do not fit",
        "missing: fuse.0.weight",
        "unexpected: head.bias",
        "shape of backbone.stem.0.weight: found (1, 2), expected (32, 3, 3, 3)",
    ):
        assert sentence in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


def test_another_number_of_classes_is_a_sentence_with_both(tmp_path, file):
    with pytest.raises(
        ConfigError, match=r"is a frm-lite0 of 8 classes, but camvid has 11\. Name the dataset"
    ):
        imported(tmp_path, file, data="camvid")


def test_weights_of_a_backbone_alone_are_told_apart(tmp_path):
    file = find_pretrained("efficientnet-lite0")
    with pytest.raises(
        WeightsError, match="contains only the backbone efficientnet-lite0"
    ) as refused:
        imported(tmp_path, file)
    assert f"featherseg train frm-lite0 --data shapes --init {file} --out RUN" in str(refused.value)


class Harmful:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_code_in_a_file_is_not_run(tmp_path):
    trap = tmp_path / "trap"
    torch.save({"state_dict": {}, "x": Harmful(f"touch {trap}")}, tmp_path / "w.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Harmful(f"touch {trap}")))
    for name in ("w.pth", "plain.pth"):
        with pytest.raises(WeightsError, match="cannot be read as weights"):
            imported(tmp_path, tmp_path / name)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"model": "frm-lite"}, UnknownName, "Did you mean 'frm-lite0'"),
        ({"data": "shape"}, UnknownName, "Did you mean 'shapes'"),
        ({"licence": " "}, ConfigError, "the licence is empty"),
        ({"overrides": ("model.contxt=ppm",)}, ConfigError, "Did you mean 'context'"),
    ],
)
def test_a_slip_is_a_sentence(tmp_path, changes, error, sentence):
    values = {"model": "frm-lite0", "data": "shapes", "licence": "MIT", **changes}
    with pytest.raises(error, match=sentence):
        write_imported_run(ImportRequest(tmp_path / "w.pth", **values), tmp_path / "run", print)


def test_a_missing_file_and_a_folder_in_the_way_are_sentences(tmp_path):
    with pytest.raises(WeightsError, match=r"nowhere\.pth is not a file"):
        imported(tmp_path, tmp_path / "nowhere.pth")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "note.txt").write_text("mine")
    with pytest.raises(RunError, match="already exists"):
        imported(tmp_path, tmp_path / "nowhere.pth")


@pytest.mark.parametrize("k", [3, 12, 30])  # in the weights, in the recipe, in the record
def test_a_full_disk_leaves_no_run_and_no_rest(tmp_path, monkeypatch, file, k):
    disk = FaultyDisk(monkeypatch, k, OSError(28, "No space left on device"))
    with pytest.raises((FeathersegError, OSError), match="No space left"):
        imported(tmp_path, file)
    assert disk.count >= k
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]


def test_resuming_an_imported_run_is_refused_with_what_to_do(tmp_path, file):
    run = imported(tmp_path, file)
    with pytest.raises(RunError, match=r"(?s)was imported from weights\.pth.*--init"):
        train(request(), run.path, Silent(), resume=True)
    assert (run.path / RESOLVED).is_file()


@pytest.mark.parametrize("name", MODELS)
def test_every_model_of_the_catalogue_can_be_asked_for(name):
    _, recipe = ImportRequest(Path("w.pth"), name, "cityscapes", "MIT").read()
    assert (recipe.model.name, recipe.data.name) == (name, "cityscapes")


@pytest.mark.seconds
def test_the_function_takes_settings_and_passes_messages_on(tmp_path, model):
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    messages = []
    run = featherseg.import_weights(
        tmp_path / "w.pth",
        "frm-lite0",
        "shapes",
        out=tmp_path / "run",
        licence="Apache-2.0",
        image_size=(64, 96),
        settings={"train.seed": 3},
        on_message=messages.append,
    )
    assert (run.licence, run.recipe.train.seed) == ("Apache-2.0", 3)
    assert featherseg.load_run(tmp_path / "run").classes == run.classes
    assert messages == ["removed the prefix 'module.' from all keys"]
