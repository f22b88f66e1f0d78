from featherseg.core.types import ClassInfo


def test_a_class_is_stuff_unless_it_is_said_to_be_a_thing():
    assert not ClassInfo("road", (128, 64, 128)).thing
    assert ClassInfo("car", (0, 0, 142), thing=True).thing
