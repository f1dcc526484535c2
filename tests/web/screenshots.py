"""Pictures of every view at 1280 and 390 pixels, light and dark, in English and Chinese, to be looked at.

python -m tests.web.screenshots OUT [VIEW ...]
"""

import argparse
from pathlib import Path

from app.settings import Settings
from tests.conftest import running_server
from tests.web.browsing import Page, Scheme, barriers, chromium, emulated, screenshot, speak
from tests.web.views import VIEWS

WIDTHS = (1280, 390)
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
LANGUAGES = {"en": "en-US", "zh": "zh-CN"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("views", nargs="*", metavar="VIEW", help=f"all if none is named: {', '.join(VIEWS)}")
    parser.add_argument("--language", choices=LANGUAGES, default="en")
    options = parser.parse_args()
    with running_server(Settings(port=0, device="cpu", chat_template="plain", _env_file=None)) as server, chromium() as browser:
        speak(browser, LANGUAGES[options.language])
        for name in options.views or VIEWS:
            for width in WIDTHS:
                with emulated(browser, width):
                    VIEWS[name](Page(browser), server.url)
                for scheme in SCHEMES:
                    path = screenshot(browser, options.out / f"{name}-{options.language}-{width}-{scheme}.png", width, scheme)
                    with emulated(browser, width, scheme):
                        print(path, *barriers(browser), sep="\n  ", flush=True)
        browser.get("about:blank")  # closes its connections, so that the server can stop


if __name__ == "__main__":
    main()
