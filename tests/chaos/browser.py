"""Goal 24: what a page reads of a stream that was cut at every byte is the text of the answer that was not streamed.

What the page reads with, /client.js, in a real Chromium; three parsers of Python's do the same in tests/clients/test_rechunked.py.
"""

import asyncio
import base64
import json
import shutil

import httpx
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from tests.chaos.goals import Figure, Scale, exactly, goal
from tests.chaos.service import ServiceProcess, service

NUM_AT_ONCE = 16
BATCH = 100  # answers that go to the browser in one piece
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")
READ = """
const [streams, done] = arguments;
const client = import("/client.js");
const read = async (encoded) => {
  const { eventData } = await client;
  const bytes = Uint8Array.from(atob(encoded), (char) => char.charCodeAt(0));
  const one_by_one = new ReadableStream({ start(to) { for (const byte of bytes) to.enqueue(Uint8Array.of(byte)); to.close(); } });
  let text = "";
  for await (const data of eventData(new Response(one_by_one))) text += JSON.parse(data).token.text;
  return text;
};
Promise.all(streams.map(read)).then(done, (error) => done(String(error)));
"""


@goal(24, "Streams cut at every byte, read by the page in Chromium")
def streams_in_a_browser(scale: Scale) -> list[Figure]:
    num = scale.of(100, 10_000)
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        return [Figure("answers read", f"{num:,}", "Chromium is missing", holds=False, by_clock=True)]
    with service(max_running=NUM_AT_ONCE) as running:
        answers = asyncio.run(_ask(running, num))
        read = _read_in_browser(running, [streamed for _, streamed in answers])
    different = sum(whole != text for (whole, _), text in zip(answers, read, strict=True))
    return [exactly("answers read", num, len(read)), exactly("texts that differ", 0, different)]


async def _ask(running: ServiceProcess, num: int) -> list[tuple[str, bytes]]:
    """Of each question the text of its whole answer and the bytes of its stream."""
    limit = asyncio.Semaphore(NUM_AT_ONCE)
    async with httpx.AsyncClient(base_url=running.url, timeout=120) as client:

        async def ask(number: int) -> tuple[str, bytes]:
            parameters = {"max_new_tokens": 1 + number % 24, "seed": number, "temperature": 1.5, "ignore_eos": number % 2 == 0}
            body = {"inputs": f"naïveté 日本🙂 {number}", "parameters": parameters}
            async with limit:
                whole = await client.post("/generate", json=body)
                streamed = await client.post("/generate_stream", json=body)
            return whole.json()["generated_text"], streamed.content

        return await asyncio.gather(*(ask(number) for number in range(num)))


def _read_in_browser(running: ServiceProcess, streams: list[bytes]) -> list[str]:
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in FLAGS:
        options.add_argument(flag)
    browser = Chrome(options, ChromeService(shutil.which("chromedriver")))
    try:
        browser.set_script_timeout(300)
        browser.get(running.url)
        encoded = [base64.b64encode(stream).decode() for stream in streams]
        texts: list[str] = []
        for start in range(0, len(encoded), BATCH):
            read = browser.execute_async_script(READ, encoded[start : start + BATCH])
            assert isinstance(read, list), json.dumps(read)
            texts += read
        return texts
    finally:
        browser.quit()
