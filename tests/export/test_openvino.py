"""The OpenVINO pair: parity, and that nothing else is written."""

from three_layers import FACTS, three_layers

from featherseg.export import openvino
from featherseg.export.job import Job
from featherseg.export.parity import verify


def test_a_pair_gives_its_networks_logits_at_sizes_it_was_not_exported_at(tmp_path):
    openvino.write(Job(three_layers(), FACTS, tmp_path))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    report = verify(three_layers(), tmp_path / "model.xml", facts=FACTS)
    assert report.ok, report


def test_weights_are_written_in_fp32(tmp_path):
    network = three_layers()
    openvino.write(Job(network, FACTS, tmp_path))
    assert network.stem.weight.detach().numpy().tobytes() in (tmp_path / "model.bin").read_bytes()


def test_a_graph_that_was_made_already_is_not_made_again(tmp_path):
    from featherseg.export.onnx import to_onnx

    calls = []

    def graph() -> bytes:
        calls.append(1)
        return to_onnx(three_layers(), FACTS)

    openvino.write(Job(three_layers(), FACTS, tmp_path, graph=graph))
    assert calls == [1]
