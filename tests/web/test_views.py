"""Of every view, wide and narrow, light and dark: it has no barriers, fits its screen and leaves no error in the console."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from selenium.webdriver import Chrome

from app.settings import Settings
from tests.conftest import running_server
from tests.web.browsing import Page, emulated
from tests.web.views import VIEWS, View

REFUSED = "status of 422"  # what the view of an error asks for


@pytest.fixture(scope="module")
def server(chatml_checkpoint: Any) -> Iterator[Any]:
    """One that can chat, too."""
    with running_server(Settings(model=str(chatml_checkpoint), port=0, device="cpu", max_running=8, _env_file=None)) as running:
        yield running


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_a_view_has_no_barriers_fits_its_screen_and_breaks_nothing(
    page: Page, server: Any, violations: Callable[[Chrome], list[str]], view: View, width: int
) -> None:
    with emulated(page.browser, width):
        view(page, server.url)
        assert page.browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert violations(page.browser) == []
    with emulated(page.browser, width, "dark"):
        assert violations(page.browser) == []
    assert [line["message"] for line in page.browser.get_log("browser") if REFUSED not in line["message"]] == []
