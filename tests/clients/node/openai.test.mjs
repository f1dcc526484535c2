// openai's client for JavaScript.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { MESSAGES, PROMPT, collect, completed, replied, v1 } from "./service.mjs";

const client = new OpenAI({ baseURL: v1, apiKey: "none", maxRetries: 0 });
const sampled = { model: "gpt2", prompt: PROMPT, max_tokens: 8, seed: 1, temperature: 1.5 };
const asked = { model: "gpt2", messages: MESSAGES, max_tokens: 8, seed: 1 };

test("openai completes", async () => {
  const answer = await client.completions.create(sampled);
  assert.equal(answer.choices[0].text, await completed(PROMPT, { max_tokens: 8, seed: 1, temperature: 1.5 }));
  assert.equal(answer.usage.completion_tokens, 8);
});

test("openai streams what it completes", async () => {
  const stream = await client.completions.create({ ...sampled, stream: true });
  const whole = await client.completions.create(sampled);
  assert.equal(await collect(stream, (chunk) => chunk.choices[0].text), whole.choices[0].text);
});

test("openai completes a list of prompts, several choices of each", async () => {
  const answer = await client.completions.create({ ...sampled, prompt: [PROMPT, "A young girl"], n: 2 });
  assert.deepEqual(answer.choices.map((choice) => choice.index), [0, 1, 2, 3]);
});

test("openai lists the models", async () => {
  const models = await client.models.list();
  assert.deepEqual(models.data.map((model) => model.id), ["talking-gpt2"]);
});

test("openai throws its own errors", async () => {
  await assert.rejects(client.completions.create({ ...sampled, temperature: 3 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "temperature");
    return true;
  });
  await assert.rejects(client.models.retrieve("gpt-5"), OpenAI.NotFoundError);
});

test("openai chats", async () => {
  const answer = await client.chat.completions.create(asked);
  assert.equal(answer.choices[0].message.content, await replied({ max_tokens: 8, seed: 1 }));
  assert.equal(answer.choices[0].message.role, "assistant");
});

test("openai streams the chat that it completes", async () => {
  const stream = await client.chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } });
  const text = await collect(stream, (chunk) => chunk.choices[0]?.delta.content);
  assert.equal(text, await replied({ max_tokens: 8, seed: 1 }));
});

test("openai's helper for streams of chat builds the whole answer", async () => {
  const final = await client.chat.completions.stream(asked).finalChatCompletion();
  assert.equal(final.choices[0].message.content, await replied({ max_tokens: 8, seed: 1 }));
});
