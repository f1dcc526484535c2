// The client against a real service.
import assert from "node:assert/strict";
import { test } from "node:test";
import { collect, textOf } from "./nasty.mjs";

const { GPT2 } = await import(process.env.GPT2_CLIENT);
const gpt2 = new GPT2({ baseUrl: process.env.GPT2_URL, apiKey: process.env.GPT2_KEY });
const inputs = "The old man";

test("the events of a text make up the text", async () => {
  const parameters = { max_new_tokens: 12, temperature: 1.5, seed: 3 };
  const events = await collect(gpt2.generate({ inputs, parameters }));
  const { generated_text } = await gpt2.post("generate", { inputs, parameters });
  assert.equal(textOf(events), generated_text);
  assert.equal(events.at(-1).generated_text, generated_text);
  assert.deepEqual(events.map((event) => event.index), Array.from({ length: 12 }, (_, i) => i + 1));
});

test("several samples come each with an end of its own", async () => {
  const parameters = { max_new_tokens: 6, temperature: 1.5, seed: 3, n: 3 };
  const events = await collect(gpt2.generate({ inputs, parameters }));
  const ends = events.filter((event) => event.details);
  assert.deepEqual(ends.map((event) => event.sample).sort(), [0, 1, 2]);
  for (const { sample, generated_text } of ends) {
    assert.equal(textOf(events.filter((event) => event.sample === sample)), generated_text);
  }
});

test("the largest seed goes and comes as it is, however it is given", async () => {
  for (const seed of ["18446744073709551615", 2n ** 64n - 1n]) {
    let drawn;
    const onOpen = (response) => (drawn = response.headers.get("x-seed"));
    const events = await collect(gpt2.generate({ inputs, parameters: { max_new_tokens: 2, temperature: 1, seed } }, { onOpen }));
    assert.equal(drawn, "18446744073709551615");
    assert.equal(events.at(-1).details.seed, "18446744073709551615");
  }
});

test("OpenAI's completions and chat stream to their end", async () => {
  const whole = await gpt2.post("v1/completions", { prompt: inputs, max_tokens: 8, seed: 3 });
  const chunks = await collect(gpt2.complete({ prompt: inputs, max_tokens: 8, seed: 3 }));
  assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(""), whole.choices[0].text);
  const messages = [{ role: "user", content: "Who are you?" }];
  const replies = await collect(gpt2.chat({ messages, max_tokens: 8, seed: 3 }));
  const reply = await gpt2.post("v1/chat/completions", { messages, max_tokens: 8, seed: 3 });
  assert.equal(replies.map((chunk) => chunk.choices[0]?.delta.content ?? "").join(""), reply.choices[0].message.content);
});

test("what the service refuses is thrown with its status, code and field", async () => {
  const refused = gpt2.generate({ inputs, parameters: { top_p: 2 } });
  await assert.rejects(collect(refused), { name: "ServiceError", status: 422, code: "validation", message: /top_p/, isEvent: false });
  await assert.rejects(collect(gpt2.complete({ prompt: inputs, top_p: 2 })), { status: 400, param: "top_p" });
  await assert.rejects(gpt2.post("v1/nothing", {}), { status: 404, code: "not_found", requestId: /./ });
});

test("a key is needed where the service says so", async () => {
  const stranger = new GPT2({ baseUrl: process.env.GPT2_URL });
  await assert.rejects(collect(stranger.generate({ inputs })), { status: 401, code: "invalid_api_key" });
});

test("answers are JSON, text or bytes", async () => {
  assert.equal((await gpt2.get("info")).model_id, "tiny-gpt2");
  assert.match(await gpt2.get("metrics"), /^# HELP/);
});

test("who leaves, or aborts, ends the generation", async () => {
  const body = { inputs, parameters: { max_new_tokens: 1000, ignore_eos: true } };
  for await (const event of gpt2.generate(body)) if (event.index === 3) break;
  const leave = new AbortController();
  await assert.rejects(
    async () => {
      for await (const event of gpt2.generate(body, { signal: leave.signal })) if (event.index === 3) leave.abort();
    },
    { name: "AbortError" },
  );
  const aborted = /gpt2_requests_total\{outcome="aborted",route="\/generate"\} 2/;
  while (!aborted.test(await gpt2.get("metrics"))) await new Promise((resolve) => setTimeout(resolve, 20));
});
