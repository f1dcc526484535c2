// @huggingface/inference with the address of an endpoint, whose generation of text goes to /v1/completions.
import assert from "node:assert/strict";
import { test } from "node:test";
import { InferenceClient } from "@huggingface/inference";
import { MESSAGES, PROMPT, collect, completed, replied, url } from "./service.mjs";

const client = new InferenceClient(undefined, { endpointUrl: url });
const shape = { temperature: 1.5, top_k: 50, top_p: 0.95, repetition_penalty: 1.1, seed: 3 };
const wanted = { inputs: PROMPT, parameters: { max_new_tokens: 8, ...shape } };
const asked = { messages: MESSAGES, max_tokens: 8, seed: 3 };

test("@huggingface/inference generates text", async () => {
  const answer = await client.textGeneration(wanted);
  assert.equal(answer.generated_text, await completed(PROMPT, { max_tokens: 8, ...shape }));
});

test("@huggingface/inference streams the text that it generates", async () => {
  const stream = client.textGenerationStream({ ...wanted, stream: true });
  assert.equal(await collect(stream, (chunk) => chunk.choices[0].text), await completed(PROMPT, { max_tokens: 8, ...shape }));
});

test("@huggingface/inference takes the parameters of its documentation", async () => {
  const parameters = { ...wanted.parameters, do_sample: true, return_full_text: false, stop: ["\n\n"], watermark: false, details: true };
  const answer = await client.textGeneration({ inputs: PROMPT, parameters });
  assert.equal(answer.generated_text, await completed(PROMPT, { max_tokens: 8, ...shape, stop: ["\n\n"] }));
});

test("@huggingface/inference throws on what is refused", async () => {
  await assert.rejects(client.textGeneration({ inputs: PROMPT, parameters: { top_p: 2 } }), (error) => {
    assert.equal(error.httpResponse.status, 400);
    return true;
  });
});

test("@huggingface/inference chats", async () => {
  const answer = await client.chatCompletion(asked);
  assert.equal(answer.choices[0].message.content, await replied({ max_tokens: 8, seed: 3 }));
});

test("@huggingface/inference streams the chat that it completes", async () => {
  const text = await collect(client.chatCompletionStream(asked), (chunk) => chunk.choices[0]?.delta.content);
  assert.equal(text, await replied({ max_tokens: 8, seed: 3 }));
});
