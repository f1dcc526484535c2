/** How surprising a text is to the model, in windows of its context. Knows no page. */

/**
 * @typedef {import("../../client.js").GPT2} GPT2
 * @typedef {import("./units.js").Token} Token
 * @typedef {{ num: number, bits: number, bytes: number }} Sums of the tokens that have something before them
 */

const NUM_ALTERNATIVES = 5;

/**
 * The tokens of a text with their log-probabilities and the likeliest ones at each place. Each window after the first begins half a
 * context before what it scores, so that every token has at least that much before it.
 *
 * @param {GPT2} client @param {string} text @param {number} context in tokens
 * @param {import("../../client.js").Options} options of each request
 * @param {(tokens: Token[]) => void} onTokens told of each window's
 */
export async function score(client, text, context, options, onTokens) {
  const spans = await client.post("tokenize", { inputs: text }, options);
  const size = context - 1; // a prompt leaves room for a token
  for (let from = 0, to; from < spans.length; from = to) {
    const start = from && Math.max(0, from - Math.floor(size / 2));
    to = Math.min(spans.length, start + size);
    const body = {
      prompt: spans.slice(start, to).map(({ id }) => id),
      max_tokens: 0,
      echo: true,
      prompt_logprobs: NUM_ALTERNATIVES,
    };
    const answer = await client.post("v1/completions", body, options);
    const places = answer.choices[0].prompt_logprobs.slice(from - start);
    onTokens(places.map((place, index) => tokenOf(spans[from + index], place)));
  }
}

/** @returns {Token} */
function tokenOf({ id, text }, place) {
  const entries = Object.entries(place ?? {}).map(([other, { logprob, rank, decoded_token }]) => ({
    id: Number(other),
    text: decoded_token,
    logprob,
    rank,
  }));
  const top = entries.filter(({ rank }) => rank !== null && rank <= NUM_ALTERNATIVES).sort((a, b) => a.rank - b.rank);
  const own = entries.find((entry) => entry.id === id);
  return { id, text, logprob: own ? own.logprob : null, special: false, top };
}

/** @param {Token[]} tokens @returns {Sums} */
export function sumsOf(tokens) {
  const scored = tokens.filter(({ logprob }) => logprob !== null);
  const bits = scored.reduce((sum, { logprob }) => sum - logprob / Math.LN2, 0);
  const bytes = new TextEncoder().encode(scored.map(({ text }) => text).join("")).length;
  return { num: scored.length, bits, bytes };
}

export const perplexity = ({ num, bits }) => 2 ** (bits / num);
