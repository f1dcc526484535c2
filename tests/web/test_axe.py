"""axe is the release that its README names, and finds what there is to find."""

import hashlib
import re
from typing import Any

from tests.web.browsing import AXE, Page, barriers


def test_axe_is_the_file_that_was_vendored() -> None:
    readme = (AXE.parent / "README.md").read_text()
    assert hashlib.sha256(AXE.read_bytes()).hexdigest() in readme
    (version,) = re.findall(r"^axe-core ([\d.]+),", readme)
    assert f"axe v{version}" in AXE.read_text()[:200]


def test_axe_finds_a_barrier(page: Page, server: Any) -> None:
    page.open(server.url)
    page.until(lambda: page.text("model"))
    page.browser.execute_script("document.getElementById('content').append(document.createElement('button'))")
    assert [barrier.split(":")[0] for barrier in barriers(page.browser)] == ["button-name"]
