"""Where exported files go, and that they arrive whole."""

import shutil

import pytest

from featherseg.core.errors import ExportError
from featherseg.exporters import EXPORTERS, pipeline
from featherseg.exporters.pipeline import destinations, move


def test_without_a_path_files_go_into_the_export_folder_of_the_run(tmp_path):
    assert destinations(tmp_path, ["onnx", "openvino-int8"], None) == {
        "onnx": tmp_path / "export" / "model.onnx",
        "openvino-int8": tmp_path / "export" / "model.int8.xml",
    }


def test_a_folder_takes_all_and_a_file_one(tmp_path):
    assert destinations(None, ["onnx", "web"], tmp_path / "out") == {
        "onnx": tmp_path / "out" / "model.onnx",
        "web": tmp_path / "out" / "web",
    }
    assert destinations(None, ["onnx-int8"], tmp_path / "a.onnx") == {
        "onnx-int8": tmp_path / "a.onnx"
    }
    (tmp_path / "v1.0").mkdir()
    assert destinations(None, ["onnx"], tmp_path / "v1.0") == {
        "onnx": tmp_path / "v1.0" / "model.onnx"
    }


@pytest.mark.parametrize("targets", [["onnx"], ["web"], ["onnx", "coreml"]])
def test_a_new_folder_may_have_a_dot_in_its_name(tmp_path, targets):
    out = tmp_path / "exports.2026"
    assert destinations(None, targets, out) == {
        name: out / EXPORTERS[name].main for name in targets
    }


def test_a_package_of_core_ml_is_a_folder_that_the_next_one_replaces(tmp_path):
    package, draft = tmp_path / "model.mlpackage", tmp_path / "draft"
    (draft / "model.mlpackage").mkdir(parents=True)
    for text in ("old", "new"):
        (draft / "model.mlpackage" / "Manifest.json").write_text(text)
        for named in (tmp_path, package):
            assert destinations(None, ["coreml"], named) == {"coreml": package}
        move(draft, EXPORTERS["coreml"], package)
    assert [(file.name, file.read_text()) for file in package.iterdir()] == [
        ("Manifest.json", "new")
    ]
    with pytest.raises(ExportError, match="names one file, but 2"):
        destinations(None, ["onnx", "coreml"], package)


@pytest.mark.parametrize(
    ("file", "targets", "named"),
    [
        ("a.onnx", ["onnx", "openvino"], "names one file, but 2 are to be written"),
        (
            "a.onnx",
            ["openvino"],
            r"a\.onnx was named for openvino. Expected a name that ends in \.xml, or a folder",
        ),
        ("a.onnx", ["web"], "Expected a folder"),
        (
            "a.ONNX",
            ["onnx"],
            r"a\.ONNX was named for onnx. Expected a name that ends in \.onnx, or a folder",
        ),
        (
            "a.bin",
            ["ncnn"],
            r"a\.bin was named for ncnn. Expected a name that ends in \.ncnn\.param, or a folder",
        ),
    ],
)
def test_a_name_that_does_not_fit_is_refused(tmp_path, file, targets, named):
    with pytest.raises(ExportError, match=named):
        destinations(None, targets, tmp_path / file)


def test_a_pair_takes_the_name_that_was_given_and_other_files_stay(tmp_path):
    draft, out = tmp_path / "draft", tmp_path / "out"
    draft.mkdir()
    out.mkdir()
    (draft / "model.int8.xml").write_text("xml")
    (draft / "model.int8.bin").write_text("weights")
    (out / "model.onnx").write_text("other")
    (out / "a.bin").write_text("old")
    assert move(draft, EXPORTERS["openvino-int8"], out / "a.xml") == 10
    found = {file.name: file.read_text() for file in out.iterdir()}
    assert found == {"a.xml": "xml", "a.bin": "weights", "model.onnx": "other"}


def test_the_file_that_is_opened_arrives_last(tmp_path, monkeypatch):
    (tmp_path / "draft").mkdir()
    for name in ("model.a", "model.onnx", "model.z"):
        (tmp_path / "draft" / name).write_text(name)
    order = []
    monkeypatch.setattr(
        pipeline, "write_together", lambda writes: order.extend(path.name for path in writes)
    )
    move(tmp_path / "draft", EXPORTERS["onnx"], tmp_path / "out" / "b.onnx")
    assert order == ["b.a", "b.z", "b.onnx"]


def test_a_folder_replaces_a_folder(tmp_path):
    draft, out = tmp_path / "draft", tmp_path / "out"
    (draft / "web" / "js").mkdir(parents=True)
    (draft / "web" / "js" / "a.js").write_text("new")
    (out / "web").mkdir(parents=True)
    for text in ("old", "new"):
        (draft / "web" / "js" / "a.js").write_text(text)
        assert move(draft, EXPORTERS["web"], out / "web") == 3
    assert [(str(f.relative_to(out)), f.read_text()) for f in out.rglob("*") if f.is_file()] == [
        ("web/js/a.js", "new")
    ]


def test_a_folder_that_is_no_export_stays(tmp_path):
    draft, out = tmp_path / "draft", tmp_path / "out"
    (draft / "web").mkdir(parents=True)
    (draft / "web" / "index.html").write_text("new")
    (out / "web" / "src").mkdir(parents=True)
    for name in ("index.html", "src/mine.ts"):
        (out / "web" / name).write_text("mine")
    with pytest.raises(
        ExportError,
        match=r"web contains src, which no export wrote\. Remove it, or name another folder",
    ):
        move(draft, EXPORTERS["web"], out / "web")
    assert [(out / "web" / name).read_text() for name in ("index.html", "src/mine.ts")] == [
        "mine",
        "mine",
    ]


def test_links_beside_an_exported_file_are_replaced_and_not_followed(tmp_path, tmp_path_factory):
    """-o names a foreign folder with links in place of a file's companions, or of a folder."""
    elsewhere, draft, out = (
        tmp_path_factory.mktemp("elsewhere"),
        tmp_path / "draft",
        tmp_path / "out",
    )
    (draft / "web").mkdir(parents=True)
    (elsewhere / "web").mkdir()
    out.mkdir()
    for name in ("model.xml", "model.bin"):
        (draft / name).write_text("new")
        (elsewhere / name).write_text("old")
        (out / name).symlink_to(elsewhere / name)
    (out / "web").symlink_to(elsewhere / "web")
    (draft / "web" / "index.html").write_text("new")
    move(draft, EXPORTERS["web"], out / "web")
    shutil.rmtree(draft / "web")
    move(draft, EXPORTERS["openvino"], out / "model.xml")
    assert [(elsewhere / name).read_text() for name in ("model.xml", "model.bin")] == ["old", "old"]
    assert not list((elsewhere / "web").iterdir())
    assert not any((out / name).is_symlink() for name in ("model.xml", "model.bin", "web"))
