"""What a person waits for on the page, in Chromium beside the server: the first token, frames while it writes or is looked into.

    python -m benchmarks.page

Wanted: the first token visible 100 ms after Ctrl-Enter, no frame over 50 ms while 500 tokens stream (default checkpoint), and 60
frames a second while the X-ray is moved over 12 layers and 64 tokens (GPT-2 124M, random weights). The browser draws without a
GPU, on the cores that the model computes on. Needs Chromium and its driver.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By

from benchmarks.machine import gpt2_tokenizer, prompts_of, random_gpt2, write_result
from benchmarks.server import ServerProcess
from tests.web.browsing import Page, chromium

NUM_STREAMED, NUM_POSITIONS = 500, 64
TARGETS = {"first_token_ms": 100, "longest_streaming_frame_ms": 50, "scrubbing_frames_per_second": 60}
FRAME_MS = 1000 / 60

# From the key to the frame that has a token in it: the callback runs before that frame is drawn, the message comes behind it.
WATCH_FIRST = """
window.first = { pressed: null, visible: null };
addEventListener("keydown", (event) => { if (event.key === "Enter" && event.ctrlKey) first.pressed = event.timeStamp; }, true);
const isToken = (node) => node instanceof Element && node.matches(".token");
new MutationObserver((records) => {
  if (first.pressed === null || first.visible !== null) return;
  if (!records.some(({ addedNodes }) => [...addedNodes].some(isToken))) return;
  first.visible = 0;
  requestAnimationFrame(() => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => (first.visible = performance.now());
    port2.postMessage(null);
  });
}).observe(document.getElementById("result"), { childList: true, subtree: true });
"""
# The time from each frame to the next. Whoever sets `frames.move` is called in each, until it says that it is done.
WATCH_FRAMES = """
window.frames = { lengths: [], busy: [], done: false, move: null };
let before = null;
const frame = (now) => {
  if (before !== null) frames.lengths.push(now - before);
  before = now;
  if (frames.move && !frames.move()) frames.done = true;
  if (!frames.done) requestAnimationFrame(frame);
};
const keep = (list) => frames.busy.push(...list.getEntries().map(({ duration }) => duration));
new PerformanceObserver(keep).observe({ type: "longtask" });
requestAnimationFrame(frame);
"""
# Each position of each layer once, by the sliders that a person would move.
SCRUB = """
const [numLayers, numPositions] = arguments;
const slide = (id, value) => {
  const field = document.getElementById(id);
  field.value = value;
  field.dispatchEvent(new Event("input", { bubbles: true }));
};
let at = 0;
frames.move = () => {
  if (at === numLayers * numPositions) return false;
  if (at % numPositions === 0) slide("xray-layer", at / numPositions);
  slide("xray-position", at % numPositions);
  at += 1;
  return true;
};
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20, help="presses of Ctrl-Enter, and a quarter as many streams and scrubs")
    options = parser.parse_args()
    with chromium() as browser:
        with ServerProcess() as server:
            first = _first_tokens(browser, server.url, options.rounds)
            streams = [_stream(browser, server.url, seed) for seed in range(max(options.rounds // 4, 1))]
        scrubs = _scrubs(browser, max(options.rounds // 4, 1))
    result = {
        "targets": TARGETS,
        "first_token_ms": first,
        "streaming": _of_all(streams),
        "scrubbing": _of_all(scrubs),
    }
    print(json.dumps(result, indent=2))
    write_result("page", "python -m benchmarks.page", result)


def _first_tokens(browser: Chrome, url: str, rounds: int) -> dict[str, float]:
    """The page's first press, which finds nothing warm, is told apart."""
    page = _writing(browser, url, length=10)
    browser.execute_script(WATCH_FIRST)
    milliseconds = []
    for _ in range(rounds + 1):
        browser.execute_script("first.pressed = first.visible = null")
        page.press(Keys.CONTROL, Keys.ENTER)
        page.until(lambda: browser.execute_script("return first.visible > 0"))
        milliseconds.append(browser.execute_script("return first.visible - first.pressed"))
        page.until_done()
    return {"first_of_all": round(milliseconds[0], 1), **_distribution(milliseconds[1:])}


def _stream(browser: Chrome, url: str, seed: int) -> dict[str, Any]:
    """A text of the greatest length, from the press to its end."""
    page = _writing(browser, url, length=NUM_STREAMED, seed=seed)
    browser.execute_script("document.getElementById('field-ignore_eos').click()")
    browser.execute_script(WATCH_FRAMES)
    page.press(Keys.CONTROL, Keys.ENTER)
    page.until(lambda: page.text("status").startswith(f"{NUM_STREAMED} tokens"))
    page.until_done()
    browser.execute_script("frames.done = true")
    return browser.execute_script("return frames")


def _scrubs(browser: Chrome, rounds: int) -> list[dict[str, Any]]:
    (prompt,) = prompts_of(gpt2_tokenizer(), NUM_POSITIONS, 1)
    with tempfile.TemporaryDirectory() as directory, ServerProcess(random_gpt2(Path(directory) / "gpt2")) as server:
        browser.get(f"{server.url}/#xray?{urlencode({'text': prompt})}")
        page = Page(browser)
        greatest = "return Number(document.getElementById('xray-position')?.max ?? 0)"
        page.until(lambda: browser.execute_script(greatest) == NUM_POSITIONS - 1)
        num_layers = 1 + int(browser.find_element(By.ID, "xray-layer").get_attribute("max") or 0)
        scrubs = []
        for _ in range(rounds):
            browser.execute_script(WATCH_FRAMES)
            browser.execute_script(SCRUB, num_layers, NUM_POSITIONS)
            page.until(lambda: browser.execute_script("return frames.done"))
            scrubs.append(browser.execute_script("return frames"))
        return scrubs


def _writing(browser: Chrome, url: str, **fields: object) -> Page:
    page = Page(browser)
    page.open("about:blank")  # else the same address with another fragment would keep the page
    page.open(url)
    page.until(lambda: page.text("model"))
    page.set(**fields)
    return page


def _of_all(runs: list[dict[str, Any]]) -> dict[str, Any]:
    lengths = [length for run in runs for length in run["lengths"]]
    return {
        "runs": len(runs),
        "frames_per_second": round(1000 * len(lengths) / sum(lengths), 1),
        "longest_frame_ms": round(max(lengths), 1),
        "late_frames_share": round(sum(length > 1.5 * FRAME_MS for length in lengths) / len(lengths), 4),
        "longest_task_ms": round(max((busy for run in runs for busy in run["busy"]), default=0), 1),  # those under 50 are not told
        "frame_ms": _distribution(lengths),
    }


def _distribution(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    percentile: Callable[[float], float] = lambda share: round(ordered[min(int(share * len(ordered)), len(ordered) - 1)], 1)  # noqa: E731
    return {
        "median": round(statistics.median(ordered), 1),
        "p95": percentile(0.95),
        "slowest": round(ordered[-1], 1),
        "number": len(ordered),
    }


if __name__ == "__main__":
    main()
