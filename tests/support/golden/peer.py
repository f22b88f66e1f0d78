"""Shared tests of a model after a paper; a test file's class inherits them and adds its values.

What every model of the catalogue keeps to, whatever its paper, is in tests/models/test_contract.py.
"""

from functools import partial

import pytest
import torch
from support.golden.peer_golden import WithAux, figures, gmacs, golden, unfit

from featherseg.backbones.weights import load_official
from featherseg.core.config import parse
from featherseg.core.errors import ConfigError, UnknownName, WeightsError
from featherseg.layers.model import ModelConfig, SegmentationModel


class Peer:
    """A test that has nothing to hold is set to None in the subclass."""

    model: type[SegmentationModel]
    config: type[ModelConfig]
    variants: dict
    name: str  # the variant that tests build where none is named
    reference: str  # of tests/golden/peers
    misses: dict = {}  # how the reference is compared: Golden.misses
    counts: dict[str, tuple]  # variant -> what `measured` gives
    costs_with_aux: dict[str, float]  # GMACs of 19 classes at 1024x2048, with the auxiliary heads
    aux_keys: tuple[str, ...] = ()  # how the authors' keys of the auxiliary heads begin
    maps: list[tuple[int, int, int]]  # of the backbone for an image of 97 x 131: (C, h, w)
    slips: list[tuple[dict, str]] = [
        ({"backbone": "van-b0"}, "backbone")
    ]  # settings -> in the message

    @classmethod
    def network(
        cls, name: str | None = None, classes: int = 5, **options: object
    ) -> SegmentationModel:
        row = cls.variants[name or cls.name].config
        return cls.model(
            parse(cls.config, {**row.model_dump(), **options}, name or cls.name), classes
        )

    def measured(self, name: str) -> tuple:
        """What the table of measured peers holds of a variant."""
        return figures(partial(self.network, name))

    def pytest_generate_tests(self, metafunc):
        for argument in {"counts", "costs_with_aux", "slips"} & set(metafunc.fixturenames):
            values = getattr(self, argument)
            ids = list(values) if isinstance(values, dict) else None
            metafunc.parametrize(argument, list(values.items() if ids else values), ids=ids)

    def test_the_reference_s_logits_come_out(self):
        assert golden(self.reference).misses(self.network(classes=19), **self.misses) == []

    def test_it_weighs_and_costs_what_was_measured(self, counts):
        name, expected = counts
        pairs = zip(self.measured(name), expected, strict=True)
        assert [
            (found, known) for found, known in pairs if known is not None and found != known
        ] == []

    def test_with_its_auxiliary_heads_it_costs_what_was_measured(self, costs_with_aux):
        name, expected = costs_with_aux
        with torch.device("meta"):
            ours = WithAux(self.network(name, 19)).eval()
        assert (
            abs(gmacs(ours, (1024, 2048))["macs"] - expected) < 0.0055
        )  # half a printed digit, some rounded twice

    def test_other_weights_are_refused(self):
        ours = self.network(classes=19)
        for message, state in unfit(golden(self.reference).state()).items():
            with pytest.raises(WeightsError, match=message):
                load_official(ours, state)

    def test_weights_without_auxiliary_heads_leave_them_as_they_are(self):
        ours, state = self.network(classes=19), golden(self.reference).state()
        before = {key: value.clone() for key, value in ours.aux_heads.state_dict().items()}
        heads = [key for key in state if key.startswith(self.aux_keys)]
        load_official(ours, {key: value for key, value in state.items() if key not in heads})
        assert all(
            torch.equal(value, before[key]) for key, value in ours.aux_heads.state_dict().items()
        )
        if heads:
            last = next(key for key in reversed(heads) if key.endswith(".weight"))
            with pytest.raises(WeightsError, match=r"missing: aux_heads"):
                load_official(ours, {key: value for key, value in state.items() if key != last})

    def test_the_backbone_gives_the_maps_it_says(self):
        with torch.device("meta"):
            backbone = self.network().backbone
            maps = backbone(torch.empty(1, 3, 97, 131))
        assert [tuple(x.shape[1:]) for x in maps] == self.maps
        assert tuple(backbone.stage_channels) == tuple(channels for channels, _, _ in self.maps)

    def test_a_slip_in_the_settings_is_answered_with_a_sentence(self, slips):
        options, said = slips
        with pytest.raises((ConfigError, UnknownName), match=said):
            self.network(**options)
