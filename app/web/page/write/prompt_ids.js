/** The token ids behind a text in the page, and the text behind ids: what goes on from the middle of a text is sent as ids. */

import { readingOf } from "./fields.js";
import { brokenBehind, mended, REPLACEMENT } from "./units.js";

/** @typedef {import("./units.js").Token} Token @typedef {import("../../client.js").GPT2} GPT2 */

/**
 * The ids of a prompt as the service read it: special tokens in it, what the tokenizer puts before it, what was cut off.
 *
 * @param {GPT2} client @param {string} prompt @param {Record<string, any>} parameters that it was sent with
 * @returns {Promise<number[]>}
 */
export async function idsOf(client, prompt, parameters) {
  if (prompt) return (await client.post("tokenize", { inputs: prompt, ...readingOf(parameters) })).map(({ id }) => id);
  // An empty prompt counts as one end token, and only the service knows which.
  const asked = { inputs: "", parameters: { max_new_tokens: 1, decoder_input_details: true } };
  return (await client.post("generate", asked)).details.prefill.map(({ id }) => id);
}

/**
 * The tokens with all of their text: what may have begun a stop string, or a character, had been held back.
 *
 * @param {GPT2} client @param {Token[]} tokens @param {Record<string, any>} parameters @returns {Promise<Token[]>}
 */
export async function whole(client, tokens, parameters) {
  if (!tokens.length) return tokens;
  return mended(tokens, await textOf(client, tokens, parameters));
}

/**
 * The tokens of a text that went on behind `num` of them, maybe from within a character: its bytes came as no characters.
 *
 * @param {GPT2} client @param {Token[]} tokens @param {number} num @param {Record<string, any>} parameters
 * @returns {Promise<Token[]>}
 */
export async function joined(client, tokens, num, parameters) {
  const last = tokens[num - 1];
  if (!last || !(last.text.includes(REPLACEMENT) || (!last.text && !last.special))) return tokens;
  const end = brokenBehind(tokens, num);
  const broken = tokens.slice(0, end);
  return [...mended(broken, await textOf(client, broken, parameters)), ...tokens.slice(end)];
}

async function textOf(client, tokens, parameters) {
  const skips = parameters.skip_special_tokens ?? true;
  return (await client.post("detokenize", { ids: tokens.map(({ id }) => id), skip_special_tokens: skips })).text;
}
