"""A model as a graph for one image size with few kinds of operations, for fixed-size runtimes."""

from collections.abc import Callable
from copy import deepcopy
from operator import attrgetter, getitem
from typing import Any

import torch
from torch import Tensor, fx

from featherseg.core.types import Size
from featherseg.exporters.job import Maps
from featherseg.exporters.quiet import quiet
from featherseg.layers.model import SegmentationModel

aten = torch.ops.aten


def example(model: SegmentationModel, size: Size) -> Tensor:
    """Return the image used for tracing: zeros (1, C, *size)."""
    return torch.zeros(1, len(model.mean), *size)


def with_few_dimensions(model: SegmentationModel) -> SegmentationModel:
    """Return a copy with tensors of at most five dimensions, as runtimes of phones require.

    Layers without such a form stay as they are.
    """
    model = deepcopy(model)
    for layer in model.modules():
        if hasattr(layer, "few_dimensions"):
            layer.few_dimensions = True  # type: ignore[assignment]
    return model


@torch.no_grad()
def fixed_graph(model: SegmentationModel, size: Size) -> fx.GraphModule:
    """Return a graph of `Maps` for images (1, C, *size), with constant parts precomputed.

    Batch norms stay one operation; strides of slices become pools, masks become sums. The model
    must be in eval mode, in fp32, on the CPU. Raises ExportError if torch.export fails.
    """
    images = example(model, size)
    with quiet(f"torch {torch.__version__} cannot write this model as a graph", "torch.export"):
        program = torch.export.export(Maps(with_few_dimensions(model)).eval(), (images,))
        module = program.run_decompositions({}).module(
            check_guards=False
        )  # flattens the regions without autocast
    _fold_constants(module)
    for node in list(module.graph.nodes):
        if node.target in REWRITES:
            REWRITES[node.target](module, node)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    return module


def _fold_constants(module: fx.GraphModule) -> None:
    """Compute every operation on constants, and keep the results that others need."""
    known: dict[fx.Node, Any] = {}
    for node in list(module.graph.nodes):
        if node.op == "get_attr":
            known[node] = attrgetter(str(node.target))(module)
        elif node.op == "call_function" and all(source in known for source in node.all_input_nodes):
            args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*args, **kwargs)
    for node, value in known.items():
        users = [user for user in node.users if user not in known]
        if node.op == "call_function" and users and isinstance(value, Tensor):
            constant = insert_constant(module, node, value)
            for user in users:
                user.replace_input_with(node, constant)
    module.graph.eliminate_dead_code()


def insert_constant(module: fx.GraphModule, node: fx.Node, value: Tensor) -> fx.Node:
    """Insert a constant into the graph before `node`."""
    name = f"constant_of_{node.name}"
    module.register_buffer(name, value.detach().clone().contiguous())
    with module.graph.inserting_before(node):
        return module.graph.get_attr(name)


def replace_node(
    module: fx.GraphModule, node: fx.Node, target: Callable[..., Any], *args: Any
) -> fx.Node:
    """Replace `node` by target(*args)."""
    with module.graph.inserting_before(node):
        new = module.graph.call_function(target, args)
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    module.graph.erase_node(node)
    return new


def _drop(module: fx.GraphModule, node: fx.Node) -> None:
    """Remove an operation that changes no value."""
    if node.users:
        node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
    module.graph.erase_node(node)


def _batch_norm(module: fx.GraphModule, node: fx.Node) -> None:
    """Replace a batch norm that also returns statistics by the form with one result."""
    x, weight, bias, mean, variance, momentum, eps = node.args
    for result in list(node.users):
        assert result.target is getitem
        if result.args[1] != 0:
            module.graph.erase_node(result)
    (first,) = node.users
    replace_node(
        module,
        first,
        aten.batch_norm.default,
        x,
        weight,
        bias,
        mean,
        variance,
        False,
        momentum,
        eps,
        False,
    )
    module.graph.erase_node(node)


def _transpose(module: fx.GraphModule, node: fx.Node) -> None:
    replace_node(module, node, aten.transpose.int, node.args[0], -2, -1)


def _reshape(module: fx.GraphModule, node: fx.Node) -> None:
    replace_node(module, node, aten.reshape.default, *node.args)


def _mask(module: fx.GraphModule, node: fx.Node) -> None:
    """Replace masking with `value` (-inf) by a sum if the mask is a constant."""
    x, mask, value = node.args
    assert isinstance(mask, fx.Node)
    if mask.op != "get_attr":
        return
    fixed = attrgetter(str(mask.target))(module)
    added = torch.zeros(fixed.shape).masked_fill(fixed, value)  # type: ignore[arg-type]
    replace_node(module, node, aten.add.Tensor, x, insert_constant(module, node, added))


def _slice(module: fx.GraphModule, node: fx.Node) -> None:
    """Replace a slice of every k-th row or column by a pool with a window of one position."""
    if len(node.args) < 5 or node.args[4] == 1:
        return
    x, dim, start, _, step = node.args
    if dim not in (2, 3) or start:
        return
    replace_node(
        module, node, aten.max_pool2d.default, x, [1, 1], [step, 1] if dim == 2 else [1, step]
    )


def _pad(module: fx.GraphModule, node: fx.Node) -> None:
    if not any(node.args[1]):  # type: ignore[arg-type]
        _drop(module, node)


REWRITES: dict[Any, Callable[[fx.GraphModule, fx.Node], None]] = {
    aten._native_batch_norm_legit_no_training.default: _batch_norm,
    aten.mT.default: _transpose,
    aten._unsafe_view.default: _reshape,
    aten.clone.default: _drop,
    aten._assert_tensor_metadata.default: _drop,
    aten.masked_fill.Scalar: _mask,
    aten.slice.Tensor: _slice,
    aten.pad.default: _pad,
}
"""Operation that runtimes lack -> its replacement, which gives the same values."""
