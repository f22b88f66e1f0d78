"""An audit's page in a browser: decisions by keys, kept, saved, and applied to a copy of masks."""

import json

import numpy as np
import pytest
from PIL import Image
from support.data.balls import WRONG, Balls
from support.servers.chromium import chromium
from support.servers.page_driver import PHONE, download, expect, opened

import featherseg
from featherseg.auditing import audit as session
from featherseg.auditing import page as page_module
from featherseg.auditing.audit import audit


def said(page) -> list[str | None]:
    """The decisions as the page shows them, of its first four images."""
    return [page.locator(".suspect").nth(at).get_attribute("data-decision") for at in range(4)]


def focused(page) -> int:
    return page.evaluate(
        "[...document.querySelectorAll('.suspect')].indexOf(document.activeElement)"
    )


@pytest.mark.slow
def test_u_takes_back_the_last_decision_wherever_the_page_has_moved_to(runtime, tmp_path):
    audit(Balls(), tmp_path / "audit.html", run="colors")
    with chromium() as browser:
        page = opened(browser, (tmp_path / "audit.html").as_uri())
        for key in ("a", "k", "ArrowUp", "s", "u"):
            page.keyboard.press(key)
        assert (said(page), focused(page)) == (["accept", "keep", None, None], 1)
        page.keyboard.press("u")
        assert (said(page), focused(page)) == (["accept", None, None, None], 1)
        for _ in range(3):
            page.keyboard.press("u")
        assert (said(page), focused(page)) == ([None] * 4, 0)
        assert page.errors == []


@pytest.mark.slow
def test_decisions_stay_where_the_audit_goes_on_with_more_images(runtime, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "JUDGING", 1.0)  # no time is left for predicting
    audit(Balls(), tmp_path / "audit.html", run="colors")
    with chromium() as browser:
        page = opened(browser, (tmp_path / "audit.html").as_uri())
        decided = page.locator(".suspect").nth(3).get_attribute("data-region")
        page.locator(".suspect").nth(3).focus()
        page.keyboard.press("k")
        before = page.locator(".suspect").count()
        monkeypatch.setattr(session, "JUDGING", 0.1)
        audit(Balls(), tmp_path / "audit.html", run="colors")
        page.reload()
        assert page.locator(".suspect").count() > before
        (kept,) = page.locator(".suspect[data-decision]").all()
        assert (kept.get_attribute("data-decision"), kept.get_attribute("data-region")) == (
            "keep",
            decided,
        )


@pytest.mark.slow
def test_decisions_that_are_not_shown_any_more_are_saved_with_the_others(
    runtime, tmp_path, monkeypatch
):
    monkeypatch.setattr(page_module, "MOST_SHOWN", 6)
    audit(Balls(), tmp_path / "audit.html", run="colors")
    with chromium() as browser:
        page = opened(browser, (tmp_path / "audit.html").as_uri())
        for key in "akas":
            page.keyboard.press(key)
        decided = [page.locator(".suspect").nth(at).get_attribute("data-region") for at in range(4)]
        monkeypatch.setattr(page_module, "MOST_SHOWN", 3)
        audit(Balls(), tmp_path / "audit.html", run="colors")
        page.reload()
        expect(page.locator("#count")).to_have_text(
            "2 accepted, 1 kept, 0 skipped of 3; "
            "1 decided before, which are not shown any more, will be saved as well"
        )
        _, content = download(page, "#save")
        rows = json.loads(content)["decisions"]
        assert [row.pop("decision") for row in rows] == ["accept", "keep", "accept", "skip"]
        assert rows == [json.loads(text) for text in decided]

        # Where the browser has room for those alone, they are kept, and the words of the others
        page.evaluate(
            """() => {
              const set = Storage.prototype.setItem;
              Storage.prototype.setItem = function (key, value) {
                if (value.split('"region"').length > 2)
                  throw new DOMException("full", "QuotaExceededError");
                set.call(this, key, value);
              };
            }"""
        )
        page.locator(".suspect").nth(0).focus()
        page.keyboard.press("s")
        page.reload()
        expect(page.locator("#count")).to_have_text(
            "1 accepted, 1 kept, 1 skipped of 3; "
            "1 decided before, which are not shown any more, will be saved as well"
        )

        # Of another audit, of masks that were corrected since, none are taken over
        (tmp_path / "audit.html").write_text(
            (tmp_path / "audit.html").read_text().replace('data-audit="', 'data-audit="another-')
        )
        page.reload()
        expect(page.locator("#count")).to_have_text("1 accepted, 1 kept, 1 skipped of 3")
        assert page.errors == []


@pytest.mark.seconds
def test_what_is_decided_by_keys_is_kept_saved_and_drawn_into_the_masks(runtime, on_disk, tmp_path):
    found = audit(on_disk, tmp_path / "audit.html", run="colors")
    address = (tmp_path / "audit.html").as_uri()
    with chromium() as browser:
        page = opened(browser, address)
        assert focused(page) == 0
        page.keyboard.press("a")
        page.keyboard.press("A")
        assert focused(page) == 2
        page.keyboard.press("k")
        page.keyboard.press("s")
        page.keyboard.press("ArrowUp")
        page.keyboard.press("u")
        assert said(page) == ["accept", "accept", "keep", None]
        assert focused(page) == 3
        page.keyboard.press("s")
        page.keyboard.press("Control+a")  # selects, decides nothing
        expect(page.locator("#count")).to_have_text("2 accepted, 1 kept, 1 skipped of 24")

        # The same after it was opened again, where the next is the first that nobody decided on.
        # Chromium stores a decision from another process: a second page sees when it is there
        second = page.context.new_page()
        second.goto(address)
        second.wait_for_function("Object.values(localStorage).some(text => text.includes('skip'))")
        second.close()
        page.reload()
        assert said(page) == ["accept", "accept", "keep", "skip"]
        assert focused(page) == 4
        expect(page.locator("#count")).to_have_text("2 accepted, 1 kept, 1 skipped of 24")
        name, content = download(page, "#save")
        assert page.errors == []

        # On a phone, which has no keys
        phone = opened(browser, address, **PHONE)
        assert said(phone) == [None] * 4
        phone.locator(".suspect").nth(1).locator("[data-word=keep]").tap()
        phone.locator(".suspect").nth(2).locator("[data-word=skip]").tap()
        phone.locator(".suspect").nth(2).locator("[data-word=skip]").tap()
        assert said(phone) == [None, "keep", None, None]
        assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert phone.errors == []

    decisions = json.loads(content)
    assert name == "decisions.json"
    assert decisions["format"] == 1
    assert [row["decision"] for row in decisions["decisions"]] == [
        "accept",
        "accept",
        "keep",
        "skip",
    ]
    assert [row["key"] for row in decisions["decisions"]] == [key for key, _ in found.images[:4]]
    (tmp_path / "decisions.json").write_bytes(content)
    report = featherseg.check(on_disk, fix=tmp_path / "out", decisions=tmp_path / "decisions.json")
    assert set(report.mended.changed) == {Balls.keys[number] for number in WRONG}
    data = Balls()
    for number, key in enumerate(
        Balls.keys
    ):  # the model sees what is right, so what it says makes them right
        mask = np.array(Image.open(next((tmp_path / "out/masks").rglob(f"{key}.png"))))
        assert np.array_equal(
            mask, data.right(number) if number in WRONG else data.label(number)
        ), key
