from featherseg.core.wording import counted


def test_one_is_singular_and_any_other_number_plural():
    assert [counted(n, "picture") for n in (0, 1, 2)] == ["0 pictures", "1 picture", "2 pictures"]
