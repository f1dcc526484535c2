// The AI SDK with its provider for servers that speak as OpenAI's does.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";
import { PROMPT, completed, replied, v1 } from "./service.mjs";

const provider = createOpenAICompatible({ name: "gpt2", baseURL: v1, includeUsage: true });
const completion = { model: provider.completionModel("talking-gpt2"), prompt: PROMPT, maxOutputTokens: 8, seed: 1, maxRetries: 0 };
const chat = { model: provider.chatModel("talking-gpt2"), prompt: "Who are you?", maxOutputTokens: 8, seed: 1, maxRetries: 0 };

async function streamed(options) {
  const result = streamText({ ...options, onError: ({ error }) => assert.fail(error) });
  let text = "";
  for await (const piece of result.textStream) text += piece;
  return [text, await result.usage];
}

test("the AI SDK completes text", async () => {
  const { text, usage } = await generateText(completion);
  assert.ok(text.length > 0);
  assert.equal(usage.outputTokens, 8);
});

test("the AI SDK streams the text that it completes", async () => {
  const [text, usage] = await streamed(completion);
  assert.equal(text, (await generateText(completion)).text);
  assert.equal(usage.outputTokens, 8);
});

test("the AI SDK chats", async () => {
  const { text, usage } = await generateText(chat);
  assert.equal(text, await replied({ max_tokens: 8, seed: 1 }));
  assert.ok(usage.outputTokens <= 8);
});

test("the AI SDK streams the chat that it completes", async () => {
  const [text, usage] = await streamed(chat);
  assert.equal(text, await replied({ max_tokens: 8, seed: 1 }));
  assert.ok(usage.inputTokens > 0);
});

test("the AI SDK chats in several turns with a system message", async () => {
  const messages = [
    { role: "user", content: "Who are you?" },
    { role: "assistant", content: "A machine." },
    { role: "user", content: "And then?" },
  ];
  const { text } = await generateText({ ...chat, prompt: undefined, system: "Be brief.", messages });
  const plain = "system: Be brief.<|endoftext|>user: Who are you?<|endoftext|>assistant: A machine.<|endoftext|>user: And then?<|endoftext|>assistant:";
  const written = await completed(plain, { max_tokens: 8, seed: 1 });
  assert.equal(text, written.replace(/^ /, "")); // which the template puts there itself
});

test("the AI SDK throws the service's message", async () => {
  await assert.rejects(generateText({ ...chat, temperature: 3 }), /temperature/);
});
