// The server that the tests were given, and plain requests whose answers the clients' are held against.
import assert from "node:assert/strict";

export const url = process.env.GPT2_URL;
export const v1 = `${url}/v1`;
export const PROMPT = "The old man";
export const MESSAGES = [{ role: "user", content: "Who are you?" }];

async function post(path, body) {
  const response = await fetch(url + path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  assert.equal(response.status, 200, `${path}: ${response.status}`);
  return response.json();
}

export const generated = async (inputs, parameters) => (await post("/generate", { inputs, parameters })).generated_text;

export const completed = async (prompt, fields) => (await post("/v1/completions", { prompt, ...fields })).choices[0].text;

export const replied = async (fields) =>
  (await post("/v1/chat/completions", { messages: MESSAGES, ...fields })).choices[0].message.content;

export async function collect(stream, text) {
  let whole = "";
  for await (const piece of stream) whole += text(piece) ?? "";
  return whole;
}
