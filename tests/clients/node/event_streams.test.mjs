// @microsoft/fetch-event-source and eventsource-parser, which pages and other clients read streams with.
import assert from "node:assert/strict";
import { test } from "node:test";
import { fetchEventSource } from "@microsoft/fetch-event-source";
import { EventSourceParserStream } from "eventsource-parser/stream";
import { PROMPT, completed, generated, url, v1 } from "./service.mjs";

// The one is written for pages and asks whether its page is seen.
globalThis.window ??= globalThis;
globalThis.document ??= { hidden: false, addEventListener() {}, removeEventListener() {} };

const parameters = { max_new_tokens: 8, temperature: 1.5, seed: 3 };
const options = (body) => ({ method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

async function parsed(response) {
  const events = response.body.pipeThrough(new TextDecoderStream("utf-8", { fatal: true })).pipeThrough(new EventSourceParserStream());
  const data = [];
  for await (const event of events) data.push(event.data);
  return data;
}

test("fetch-event-source reads a stream to its end", async () => {
  const messages = [];
  await fetchEventSource(`${url}/generate_stream`, {
    ...options({ inputs: PROMPT, parameters }),
    onmessage: (message) => messages.push(JSON.parse(message.data)),
    onerror: (error) => {
      throw error;
    },
  });
  assert.equal(messages.map((message) => message.token.text).join(""), await generated(PROMPT, parameters));
});

test("fetch-event-source sees a refusal as its status", async () => {
  let status = 0;
  const reading = fetchEventSource(`${url}/generate_stream`, {
    ...options({ inputs: PROMPT, parameters: { top_p: 2 } }),
    onopen: async (response) => {
      status = response.status;
      throw new Error("refused");
    },
    onerror: (error) => {
      throw error;
    },
  });
  await assert.rejects(reading, /refused/);
  assert.equal(status, 422);
});

test("eventsource-parser reads both dialects", async () => {
  const native = await parsed(await fetch(`${url}/generate_stream`, options({ inputs: PROMPT, parameters })));
  assert.equal(native.map((data) => JSON.parse(data).token.text).join(""), await generated(PROMPT, parameters));
  const fields = { max_tokens: 8, seed: 3 };
  const chunks = await parsed(await fetch(`${v1}/completions`, options({ prompt: PROMPT, stream: true, ...fields })));
  assert.equal(chunks.pop(), "[DONE]");
  assert.equal(chunks.map((data) => JSON.parse(data).choices[0].text).join(""), await completed(PROMPT, fields));
});

test("eventsource-parser reads streams that were cut anywhere", async () => {
  await Promise.all(Array.from({ length: 60 }, (_, seed) => readInPieces(seed)));
});

async function readInPieces(seed) {
  const wanted = { max_new_tokens: 8, temperature: 3, seed };
  const response = await fetch(`${url}/generate_stream`, options({ inputs: "Ä 日本 🙂", parameters: wanted }));
  const bytes = new Uint8Array(await response.arrayBuffer());
  const data = await parsed({ body: ReadableStream.from(cut(bytes, 1 + (seed % 7))) });
  assert.equal(data.map((text) => JSON.parse(text).token.text).join(""), await generated("Ä 日本 🙂", wanted));
}

function* cut(bytes, size) {
  for (let i = 0; i < bytes.length; i += size) yield bytes.subarray(i, i + size);
}
