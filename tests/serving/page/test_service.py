"""What the service refuses is said, and a busy one is waited for."""

from support.models.color_model import encoded
from support.servers.page_driver import (
    expect,
    image,
    look,
    opened,
    refused,
    says,
    serving,
    unexpected,
)


def test_what_is_no_image_gets_the_sentence_of_the_service(page):
    page.set_input_files(
        "#file", {"name": "notes.png", "mimeType": "image/png", "buffer": b"buy milk"}
    )
    says(page, "This is not a JPEG, PNG, .* or PNM image.*")
    expect(page.locator("#result")).to_be_hidden()
    refused(page)


def test_a_service_that_is_gone_is_asked_again_on_demand(page):
    page.route("**/v1/segment*", lambda route: route.abort())
    page.set_input_files(
        "#file", {"name": "street.png", "mimeType": "image/png", "buffer": encoded(image())}
    )
    says(page, "The service does not answer.*featherseg serve.*")
    refused(page)
    page.unroute("**/v1/segment*")
    page.click("#again")
    says(page, "Done: street.png.")


def test_a_busy_service_is_waited_for(page):
    answers = []

    def busy(route) -> None:
        answers.append(route)
        if len(answers) == 3:
            return route.continue_()
        return route.fulfill(
            status=429,
            headers={"Retry-After": "0"},
            json={"error": {"code": "queue", "message": "Full."}},
        )

    page.route("**/v1/segment*", busy)
    look(page, image())
    assert len(answers) == 3
    refused(page)


def test_the_token_of_the_address_is_used_and_hidden(browser, served):
    with serving([served["colors"]], token="s3cret-token") as address:
        page = opened(browser, address)
        says(page, "A token is required.*")
        refused(page)
        page.fill("#secret", "wrong")
        with page.expect_response(lambda answer: answer.status == 401):
            page.keyboard.press("Enter")
        expect(page.locator("#token")).to_be_visible()
        says(page, "A token is required.*")
        page.fill("#secret", "s3cret-token")
        page.keyboard.press("Enter")
        says(page, "Ready.")
        look(page, image())
        page.context.close()
        other = opened(browser, f"{address}#token=s3cret-token")
        says(other, "Ready.")
        assert other.url == address
        other.reload()
        says(other, "Ready.")
        look(other, image())
        assert unexpected(page) == unexpected(other) == []
        other.context.close()


def test_where_the_browser_keeps_no_data_of_the_site_the_token_is_used_all_the_same(
    browser, served
):
    blocked = (
        "Object.defineProperty(window, 'sessionStorage', { get() { throw new Error('blocked'); } })"
    )
    with serving([served["colors"]], token="s3cret-token") as address:
        page = opened(browser, "about:blank")
        page.add_init_script(blocked)
        page.goto(f"{address}#token=s3cret-token")
        says(page, "Ready.")
        look(page, image())
        assert page.errors == []
        page.context.close()
