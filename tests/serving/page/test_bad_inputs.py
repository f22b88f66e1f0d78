"""Bad inputs chosen in the page: each is shown right, or a message says why not."""

import re

import numpy as np
import pytest
from support.bad_inputs import sample
from support.models.pixel_model import mask_of, pixel_runtime
from support.servers.page_driver import expect, mask, opened, refused, says, serving, unexpected

from featherseg.inference.predictor import Predictor
from featherseg.serving.models import Served

UNDER_WAY = re.compile(r"^(Ready\.|Segmenting .*|)$", re.DOTALL)


@pytest.fixture(scope="module")
def address():
    with serving([Served("pixels", Predictor(pixel_runtime()))], largest=20_000_000) as found:
        yield found


@pytest.fixture(scope="module")
def page(browser, address):
    page = opened(browser, address)
    refused(page)
    yield page
    page.context.close()


QUICK = (0, 9)
"""Three that are read, three that are refused."""


# made here: to make the corpus takes seconds
@pytest.mark.seconds
@pytest.mark.parametrize(
    "number", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in range(16)]
)
def test_a_file_is_shown_rightly_or_refused_in_a_sentence(number, page):
    case = sample(16, seed=1)[number]
    page.errors.clear()
    page.reload()
    says(page, r"Ready\.")
    name = case.file.encode("utf-8", "replace").decode()
    page.set_input_files("#file", {"name": name, "mimeType": "", "buffer": case.content})
    expect(page.locator("#status")).not_to_have_text(UNDER_WAY, timeout=20_000)
    said = page.inner_text("#status")
    if case.pixels is None:
        assert re.fullmatch(r".{15,}\.", said, re.DOTALL)
        assert "Done" not in said
    else:
        assert said.startswith("Done")
        assert np.array_equal(mask(page), mask_of(case.pixels))
    assert unexpected(page) == []
