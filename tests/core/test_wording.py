import json
import math

import pytest

from featherseg.core.wording import counted, json_text, one_line, visible


def test_one_is_singular_and_any_other_number_plural():
    assert [counted(n, "image") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2J", "a\\x1b[2J"),
        ("\x9b31m\x07\r", "\\x9b31m\\x07\\r"),
        ("street\u202egnp.exe", "street\\u202egnp.exe"),
        ("a\udcffb", "a\\udcffb"),
        ("a\u2028b", "a\\u2028b"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("街 улица شارع 🛣 a\u202fb", "街 улица شارع 🛣 a\u202fb"),
    ],
)
def test_what_steers_a_terminal_is_shown_as_an_escape_and_letters_stay(text, shown):
    assert visible(text) == shown


def test_a_name_stands_in_one_line():
    assert one_line("a\nerror: all is lost\t\x1b[2J") == "a\\nerror: all is lost\\t\\x1b[2J"


def test_json_has_null_for_what_it_has_no_number_for():
    content = {"signal_db": math.inf, "rows": ({"miou": math.nan, "same": 1.0}, -math.inf)}
    found = json.loads(json_text(content), parse_constant=pytest.fail)
    assert found == {"signal_db": None, "rows": [{"miou": None, "same": 1.0}, None]}


def test_json_steers_nothing_and_says_the_same():
    content = {"a\x1b[2J\x9b\x7f\u202e\n街": ["\udcff\u2028", 1.5, None]}
    text = json_text(content)
    assert not set(text) & set("\x1b\x9b\x7f\u202e\u2028\udcff")
    assert "街" in text
    assert json.loads(text) == content
