"""Runs on the Hugging Face Hub, against a hub on the loopback interface."""

import errno
import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from PIL import Image
from support.models.small_run import small_info
from support.servers.hub_server import TOKEN, Hub, running_hub

from featherseg import hub as module
from featherseg import models
from featherseg.core.errors import ConfigError, FeathersegError, RunError
from featherseg.core.files import append_line, write_text
from featherseg.core.types import ClassInfo
from featherseg.hub import is_address, parse_address, pulled_from
from featherseg.reports.sharing import push
from featherseg.runs.run import find_run, load_run, open_run, save_weights, write_info

huggingface_hub = pytest.importorskip("huggingface_hub", reason="the extra hub is not installed")
pytest.importorskip("huggingface_hub.constants")
from huggingface_hub.repocard_data import model_index_to_eval_results  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore:Use 'content=:DeprecationWarning"
)  # huggingface_hub's own upload
CLASSES = (ClassInfo("grass", (0, 160, 0)), ClassInfo("path", (160, 160, 160)))
ADDRESS = "hf://meadow/lawn"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """An empty hub with its cache, and a user who is logged in."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    constants, hub = huggingface_hub.constants, Hub()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    with running_hub(hub) as address:
        hub.address = address
        point_at(monkeypatch, address)
        yield hub


def point_at(monkeypatch, address):
    """As HF_ENDPOINT does, which huggingface_hub reads once, when it is imported."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder with nothing but the weights of a run."""
    path = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    save_weights(path, models.build("efficientvit-seg-b0", 2).state_dict())
    return path


@pytest.fixture
def run(tmp_path, weights):
    """A run folder, hardly trained, with something in it that is nobody's affair."""
    path = shutil.copytree(weights, tmp_path / "runs" / "lawn")
    data = {"name": "/home/me/secret/lawn/dataset.toml", "root": "/home/me/secret"}
    info = small_info(CLASSES, model="efficientvit-seg-b0", data=data, licence="CC-BY-4.0")
    write_info(path, info.model_copy(update={"loaded": {"init": "/home/me/secret/first"}}))
    write_text(path / "recipe.toml", '[model]\nname = "efficientvit-seg-b0"\n')
    append_line(path / "metrics.jsonl", {"step": 1, "val_miou": 0.5, "loss": 1.0})
    for name in ("last.ckpt", "environment.json", "data.json", "report.html"):
        (path / name).write_text('{"command": "/home/me/secret"}')
    return path


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("hf://org/name", ("org/name", None)),
        ("hf://org/na.me-1@v1.0", ("org/na.me-1", "v1.0")),
        ("hf://org/name@refs/pr/4", ("org/name", "refs/pr/4")),
    ],
)
def test_addresses_name_repository_and_revision(text, found):
    assert parse_address(text) == found
    assert is_address(text)


@pytest.mark.parametrize(
    "text",
    [
        "hf://name",
        "hf://a/b/c",
        "hf://a/../b",
        "hf://../b",
        "hf://a/b@",
        "hf://a/b@-x",
        "hf://a/b?x=1",
        "hf:///b",
        "hf://a--b/c",
    ],
)
def test_what_is_no_address_of_a_run_gets_a_sentence(text):
    with pytest.raises(ConfigError, match="expected hf://ORG/NAME"):
        parse_address(text)


@pytest.mark.seconds
def test_a_run_that_is_pushed_is_pulled_with_the_same_weights(hub, run):
    page = push(run, ADDRESS)
    assert page == f"{hub.address}/meadow/lawn/commit/{hub.commits['meadow/lawn'][-1][0]}"
    pulled = load_run(ADDRESS)
    assert pulled.name == "lawn"
    assert pulled.address == f"{ADDRESS}@{hub.commits['meadow/lawn'][-1][0]}"
    assert pulled.read_only
    assert pulled.metrics() == open_run(run).metrics()
    mine, theirs = open_run(run).model.state_dict(), pulled.model.state_dict()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert load_run(pulled.address).path == pulled.path  # as messages call it
    assert not any("agent" in path for _, path in hub.requests)  # of huggingface_hub's telemetry


def test_the_commit_is_called_by_the_last_score_of_these_weights_and_what_chose_them(
    monkeypatch, run
):
    titles = []
    monkeypatch.setattr(
        module, "upload", lambda files, address, title, public: titles.append(title) or "page"
    )
    score = {
        "data": "lawn",
        "split": "val",
        "miou": 0.5,
        "weights_sha256": open_run(run).weights_sha256,
    }
    append_line(run / "evaluations.jsonl", score | {"selected": True})
    append_line(run / "evaluations.jsonl", score | {"miou": 0.9, "weights_sha256": "of others"})
    push(run, ADDRESS)
    assert titles[0].endswith("by featherseg, mIoU 50.00 % on val (selected on these images)")


def test_nothing_of_the_machine_the_data_s_files_or_checkpoints_is_passed_on(hub, run):
    line = {
        "data": "/home/me/secret/field/dataset.toml",
        "split": "test",
        "inference": "whole",
        "images": 3,
        "miou": 0.5,
    }
    append_line(
        run / "evaluations.jsonl", line | {"notes": ["1 mask of val changed: patient_0042"]}
    )
    push(run, ADDRESS)
    files = hub.commits["meadow/lawn"][-1][1]
    assert set(files) == {*module.SHARED, "README.md"}
    assert not any(b"/home/me" in content or b"patient" in content for content in files.values())
    assert json.loads(files["evaluations.jsonl"]) == line | {
        "data": "field/dataset.toml",
        "notes": [],
    }
    assert "`field/dataset.toml`" in files["README.md"].decode()
    record = json.loads(files["resolved.json"])
    assert (record["recipe"]["data"]["name"], record["recipe"]["data"]["root"]) == (
        "lawn/dataset.toml",
        None,
    )


def test_names_that_look_like_paths_stay_and_paths_of_windows_go(hub, run):
    info = open_run(run).info
    names = ["/road/marking/arrow", "/roof/marking/arrow"]
    rows = [
        row.model_copy(update={"name": name}) for row, name in zip(info.classes, names, strict=True)
    ]
    data = info.recipe.data.model_copy(update={"name": r"C:\Users\anna\secret\lawn\dataset.toml"})
    recipe = info.recipe.model_copy(update={"data": data})
    loaded = {"init": r"\\server\anna\secret\runs\first"}
    write_info(
        run,
        info.model_copy(
            update={"recipe": recipe, "classes": rows, "loaded": loaded, "licence": "/a/b/c"}
        ),
    )
    push(run, ADDRESS)
    files = hub.commits["meadow/lawn"][-1][1]
    record = json.loads(files["resolved.json"])
    assert [row["name"] for row in record["classes"]] == names
    assert (record["licence"], record["loaded"]) == ("/a/b/c", {"init": "runs/first"})
    assert record["recipe"]["data"]["name"] == "lawn/dataset.toml"
    assert not any(b"anna" in content for content in files.values())
    assert "`lawn/dataset.toml`" in files["README.md"].decode()


def test_where_data_lie_in_a_bucket_is_passed_on_nowhere(hub, run):
    info = open_run(run).info
    data = info.recipe.data.model_copy(
        update={"name": "s3://private-bucket/a/lawn/dataset.toml", "root": None}
    )
    recipe = info.recipe.model_copy(update={"data": data})
    write_info(
        run, info.model_copy(update={"recipe": recipe, "loaded": {"init": "gs://private-bucket"}})
    )
    write_text(
        run / "recipe.toml",
        '[data]\nname = "s3://private-bucket/a/lawn/dataset.toml"  # 90 images\n',
    )
    append_line(run / "evaluations.jsonl", {"data": "s3:/private-bucket/a/b/c", "split": "val"})
    push(run, ADDRESS)
    files = hub.commits["meadow/lawn"][-1][1]
    assert not any(b"private-bucket" in content for content in files.values())
    assert files["recipe.toml"] == b'[data]\nname = "lawn/dataset.toml"  # 90 images\n'
    assert json.loads(files["evaluations.jsonl"])["data"] == "b/c"
    assert load_run(ADDRESS).recipe.data.shown == "lawn/dataset.toml"


@pytest.mark.seconds
def test_a_new_repository_is_private_unless_public_is_asked(hub, run):
    push(run, ADDRESS)
    push(run, "hf://meadow/open", public=True)
    push(run, ADDRESS, public=True)  # stays as it is
    assert hub.private == {"meadow/lawn": True, "meadow/open": False}


def test_the_card_has_the_front_matter_that_the_hub_reads(hub, run):
    push(run, ADDRESS)
    text = hub.commits["meadow/lawn"][-1][1]["README.md"].decode()
    _, front, rest = text.split("---\n", 2)
    found = yaml.safe_load(front)
    assert found["license"] == "cc-by-4.0"
    assert found["pipeline_tag"] == "image-segmentation"
    assert (found["datasets"], found["metrics"]) == (["lawn/dataset.toml"], ["mean_iou"])
    assert rest.strip().startswith("# lawn")


def test_the_card_says_how_it_is_used_and_lists_its_scores(hub, run, tmp_path):
    line = {"data": 'a "lawn": #1', "split": "val", "inference": "whole", "images": 3}
    line["weights_sha256"] = open_run(run).weights_sha256
    append_line(run / "evaluations.jsonl", line | {"miou": 0.4})
    append_line(run / "evaluations.jsonl", line | {"miou": 0.51234, "selected": True})
    Image.new("RGB", (96, 64), (90, 140, 60)).save(tmp_path / "photo.png")
    push(run, f"{ADDRESS}@main", image=tmp_path / "photo.png")
    files = hub.commits["meadow/lawn"][-1][1]
    _, front, rest = files["README.md"].decode().split("---\n", 2)
    name, results = model_index_to_eval_results(yaml.safe_load(front)["model-index"])
    assert name == "lawn"
    (result,) = results
    assert (result.dataset_name, result.dataset_split) == ("a-lawn-1", "val")
    assert (result.metric_type, result.metric_value) == ("mean_iou", 0.5123)
    assert result.metric_name == "mIoU (selected on these images)"
    assert f"featherseg predict {ADDRESS} photos -o out" in rest
    assert "![An image and its prediction](overlay.png)" in rest
    with Image.open(io.BytesIO(files["overlay.png"])) as overlay:
        assert overlay.format == "PNG"
    assert b"hf://" not in files["card.md"]

    push(run, ADDRESS)  # without the image
    files = hub.commits["meadow/lawn"][-1][1]
    assert "overlay.png" not in files
    assert b"overlay.png" not in files["README.md"]


@pytest.mark.seconds
def test_a_revision_is_that_commit_and_main_is_the_last(hub, run):
    push(run, ADDRESS)
    first = hub.commits["meadow/lawn"][-1][0]
    append_line(run / "metrics.jsonl", {"step": 2, "val_miou": 0.6, "loss": 1.0})
    push(run, ADDRESS)
    assert list(load_run(f"{ADDRESS}@{first}").metrics()) == [1]
    assert list(load_run(ADDRESS).metrics()) == [1, 2]


@pytest.mark.seconds
def test_what_an_earlier_run_left_goes_with_the_commit_and_nothing_else(hub, run):
    append_line(run / "evaluations.jsonl", {"data": "lawn", "split": "val", "miou": 0.5})
    push(run, ADDRESS)
    hub.add("meadow/lawn", {"photo.png": b"of the owner"})
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        (run / name).unlink()
    push(run, ADDRESS)
    assert (load_run(ADDRESS).metrics(), load_run(ADDRESS).evaluations()) == ({}, [])
    assert hub.commits["meadow/lawn"][-1][1]["photo.png"] == b"of the owner"
    assert len(hub.commits["meadow/lawn"]) == 4  # begun empty, then one a push


@pytest.mark.seconds
def test_a_branch_that_is_not_there_is_made(hub, run):
    push(run, f"{ADDRESS}@second")
    assert load_run(f"{ADDRESS}@second").metrics() == open_run(run).metrics()
    push(run, f"{ADDRESS}@second")
    assert hub.commits["meadow/lawn"][-1][1] == {}
    assert len(hub.commits["meadow/lawn@second"]) == 3


@pytest.mark.seconds
def test_a_run_that_fit_chose_is_selected_on_its_validation_images_when_it_is_shared(hub, run):
    info = open_run(run).info
    train = info.recipe.train.model_copy(update={"keep": "last"})
    write_info(
        run, info.model_copy(update={"recipe": info.recipe.model_copy(update={"train": train})})
    )
    push(run, ADDRESS)
    assert not load_run(ADDRESS).selected_on("val")
    (run / "fit.json").write_text('{"data": "/home/me/secret"}')
    push(run, ADDRESS)
    assert load_run(ADDRESS).selected_on("val")
    assert "fit.json" not in hub.commits["meadow/lawn"][-1][1]
    push(load_run(ADDRESS), "hf://meadow/again")
    assert load_run("hf://meadow/again").selected_on("val")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_cache_that_cannot_be_written_is_called_by_its_name(
    hub, run, monkeypatch, tmp_path, number
):
    push(run, ADDRESS)

    def full(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", full)
    cache = re.escape(str(tmp_path / "cache"))
    with pytest.raises(
        RunError, match=f"{cache} cannot be written: {os.strerror(number)}. .*HF_HUB_CACHE"
    ):
        find_run(ADDRESS)


def test_without_a_connection_the_copy_in_the_cache_works(hub, run, monkeypatch):
    push(run, ADDRESS)
    path = find_run(ADDRESS)
    with running_hub(Hub()) as gone:
        pass
    point_at(monkeypatch, gone)
    assert find_run(ADDRESS) == path
    with pytest.raises(RunError, match=f"{gone} is not reachable, and .*cache has no copy of it"):
        find_run("hf://meadow/other")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert find_run(ADDRESS) == path


def test_what_the_hub_refuses_is_a_sentence_without_the_token(hub, run, monkeypatch, caplog):
    with pytest.raises(RunError, match="does not exist, or you may not read or write it"):
        find_run(ADDRESS)
    push(run, ADDRESS)
    with pytest.raises(RunError, match="no such branch, tag or commit"):
        find_run(f"{ADDRESS}@v9")
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}x")
    with caplog.at_level(logging.DEBUG), pytest.raises(RunError, match="hf auth login") as error:
        push(run, ADDRESS)
    assert TOKEN not in caplog.text + str(error.value)


@pytest.mark.seconds
def test_files_that_make_no_run_are_not_fetched(hub, run):
    push(run, ADDRESS)
    hub.add(
        "meadow/lawn",
        {"evil.py": b"print()", "pytorch_model.bin": b"pickle", "last.ckpt": b"pickle"},
    )
    folder = find_run(ADDRESS)
    assert {path.name for path in folder.iterdir()} == set(module.SHARED) - {"evaluations.jsonl"}
    hub.add("meadow/empty", {"README.md": b"nothing"})
    with pytest.raises(
        RunError, match=r"is no run: it has no resolved\.json and no weights\.safetensors"
    ):
        find_run("hf://meadow/empty")
    assert not any(
        "pickle" in path or "evil" in path or "README" in path for _, path in hub.requests
    )


def test_a_file_that_is_too_large_is_not_fetched(hub, run):
    push(run, ADDRESS)
    hub.sizes["resolved.json"] = 2**30
    hub.requests.clear()
    with pytest.raises(
        RunError,
        match=r"its resolved\.json has 1,073,741,824 bytes; at most 16,777,216 are allowed",
    ):
        find_run(ADDRESS)
    assert not any("/resolve/" in path for _, path in hub.requests)


def test_weights_that_are_not_what_the_hub_says_are_refused(hub, run):
    push(run, ADDRESS)
    content = hub.commits["meadow/lawn"][-1][1]["weights.safetensors"]
    hub.spoil["weights.safetensors"] = content[:-1] + bytes([content[-1] ^ 1])
    with pytest.raises(RunError, match="its sha256 is another"):
        find_run(ADDRESS)


def test_a_file_that_leads_out_of_the_cache_is_refused(hub, run, tmp_path):
    push(run, ADDRESS)
    folder = find_run(ADDRESS)
    (tmp_path / "mine").write_text("{}")
    (folder / "resolved.json").unlink()
    (folder / "resolved.json").symlink_to(tmp_path / "mine")
    with pytest.raises(RunError, match="leads out of the hub's cache"):
        find_run(ADDRESS)


def test_nothing_is_pushed_through_a_link(hub, run, tmp_path):
    (tmp_path / "key").write_text("private")
    (run / "recipe.toml").unlink()
    (run / "recipe.toml").symlink_to(tmp_path / "key")
    with pytest.raises(FeathersegError, match="symbolic link"):
        push(run, ADDRESS)
    assert not hub.commits


def test_a_run_without_weights_or_with_a_wrong_address_is_not_pushed(hub, run):
    with pytest.raises(ConfigError, match="expected hf://ORG/NAME"):
        push(run, "meadow/lawn")
    os.remove(run / "weights.safetensors")
    with pytest.raises(RunError, match=r"has no weights\.safetensors yet"):
        push(run, ADDRESS)
    assert hub.requests == []


def test_a_folder_of_one_s_own_was_not_pulled(run):
    assert pulled_from(run) is None
    assert open_run(run).address is None
    assert not open_run(run).read_only


@pytest.mark.slow
def test_push_and_predict_from_the_command_line(hub, run, tmp_path):
    """As a user does it: HF_ENDPOINT and a token are set, then offline from the cache."""
    Image.new("RGB", (96, 64), (90, 140, 60)).save(tmp_path / "photo.png")
    environment = os.environ | {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
    }

    def featherseg(*arguments, **more):
        command = [sys.executable, "-m", "featherseg", *map(str, arguments)]
        return subprocess.run(
            command, env=environment | more, capture_output=True, text=True, cwd=tmp_path
        )

    pushed = featherseg("push", run, ADDRESS)
    assert pushed.returncode == 0, pushed.stderr
    assert f"every verb accepts it: featherseg predict {ADDRESS} photos -o out" in pushed.stdout
    masks = []
    for source, more in ((run, {}), (ADDRESS, {}), (ADDRESS, {"HF_HUB_OFFLINE": "1"})):
        out = tmp_path / f"out{len(masks)}"
        done = featherseg("predict", source, tmp_path / "photo.png", "-o", out, **more)
        assert done.returncode == 0, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        masks.append((out / "photo_mask.png").read_bytes())
    assert masks[0] == masks[1] == masks[2]
    nowhere = featherseg(
        "predict", "hf://meadow/other", "photo.png", "-o", "out", HF_HUB_OFFLINE="1"
    )
    assert nowhere.returncode == 2
    assert "has no copy of it" in nowhere.stderr
    assert "Traceback" not in nowhere.stderr
