import torch

from featherseg import models
from featherseg.training.batch_size import fit_batch_size, saved_bytes


def test_what_a_forward_keeps_grows_with_the_area():
    net = models.build("frm-lite0", 3)
    small, large = saved_bytes(net, (64, 64)), saved_bytes(net, (128, 128))
    assert 3.2 < large / small < 4.2


def test_it_is_what_a_real_forward_keeps():
    net, kept = models.build("frm-lite0", 3), {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = net(torch.zeros(2, 3, 64, 96))
    for parameter in net.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    assert out.logits.shape[0] == 2
    assert abs(saved_bytes(net, (64, 96)) / (sum(kept.values()) / 2) - 1) < 0.05


def test_a_larger_crop_gets_no_larger_batch():
    net = models.build("frm-lite0", 3)
    sizes = [fit_batch_size(net, crop, torch.device("cpu")) for crop in ((64, 64), (512, 1024), (1024, 2048))]
    assert sizes == sorted(sizes, reverse=True)
    assert all(size >= 1 for size in sizes)
