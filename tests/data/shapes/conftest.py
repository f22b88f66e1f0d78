import pytest

from featherseg.data import shapes


@pytest.fixture(scope="package", autouse=True)
def drawn_anew():
    """Here scenes are drawn each time that they are asked for, other than in the tests of what reads them."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shapes, "draw_scene", shapes.draw_scene.__wrapped__)
        patched.setattr(shapes.Shapes, "label", shapes.Shapes.label.__wrapped__)
        yield
