"""Shared fixtures. Real data lies beside the repository, never in it; tests that need it skip visibly elsewhere."""

from pathlib import Path

import hypothesis
import pytest

SHARED = Path(__file__).parents[2] / "shared"

hypothesis.settings.register_profile("fixed seeds", derandomize=True)
hypothesis.settings.load_profile("fixed seeds")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and reference numbers, `../shared` beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared beside this checkout: the test needs its real data")
    return SHARED
