/**
 * Tokens as a reader sees them. A character may take several tokens, and text that might begin a stop string is held back
 * until it is clear: such tokens have no text of their own and stand in one unit with the token that brings it. Knows no DOM.
 *
 * @typedef {{id: number, text: string, logprob: number | null, special: boolean, top: Alternative[]}} Token
 * @typedef {{id: number, text: string, logprob: number, special?: boolean}} Alternative
 * @typedef {{from: number, tokens: Token[], text: string, logprob: number | null}} Unit  `from`: its first token's place
 */

export const REPLACEMENT = "\ufffd"; // what bytes that are no character are shown as

/** From which probability on each level of surprise holds: 0 is expected, the last is all below. */
export const LEVELS = [0.5, 0.2, 0.05, 0.01, 0.001];

/** Whether a token's text comes with a later one: an end token has none, and none is missing. */
const isOpen = (token) => token.text === "" && !token.special;

/**
 * The units of tokens that begin at place `from`, and how many tokens at the end still wait for their text.
 * @param {Token[]} tokens
 * @returns {{units: Unit[], rest: number}}
 */
export function unitsOf(tokens, from = 0) {
  const units = [];
  let start = 0;
  tokens.forEach((token, place) => {
    if (isOpen(token)) return;
    units.push(unit(tokens.slice(start, place + 1), from + start));
    start = place + 1;
  });
  return { units, rest: tokens.length - start };
}

/** One unit of these tokens; its probability is that of all of them in a row. */
export function unit(tokens, from) {
  const known = tokens.every((token) => token.logprob !== null);
  const logprob = known ? tokens.reduce((sum, token) => sum + token.logprob, 0) : null;
  return { from, tokens, text: tokens.map((token) => token.text).join(""), logprob };
}

/** How surprising this log-probability is: 0 to LEVELS.length. */
export function levelOf(logprob) {
  const level = LEVELS.findIndex((limit) => Math.exp(logprob) >= limit);
  return level < 0 ? LEVELS.length : level;
}

/** The tokens with the texts that make `truth` of them all: what differs between equal ends belongs to the last token between. */
export function mended(tokens, truth) {
  const texts = tokens.map((token) => token.text);
  let from = 0,
    at = 0;
  while (from < texts.length && !texts[from].includes(REPLACEMENT) && truth.startsWith(texts[from], at)) at += texts[from++].length;
  let to = texts.length,
    end = truth.length;
  while (to > from && texts[to - 1] && truth.slice(at, end).endsWith(texts[to - 1])) end -= texts[--to].length;
  if (from === to) {
    if (at === end || !texts.length) return tokens;
    from -= 1; // more text than the tokens had: it was held back behind the last of them
    at -= texts[from].length;
  }
  return tokens.map((token, place) => {
    if (place < from || place >= to) return token;
    return { ...token, text: place === to - 1 ? truth.slice(at, end) : "" };
  });
}

/** How many of the tokens behind `num` belong to a character that began before: their texts are no characters. */
export function brokenBehind(tokens, num) {
  let end = num;
  while (end < tokens.length && (isOpen(tokens[end]) || tokens[end].text.includes(REPLACEMENT))) end += 1;
  return end;
}

/** A probability, unbroken: 12 %, 0.4 %, < 0.01 %. */
export function percent(logprob) {
  const value = 100 * Math.exp(logprob);
  if (value < 0.01) return "<\u00a00.01\u00a0%";
  return `${value.toFixed(value >= 10 ? 0 : value >= 0.1 ? 1 : 2)}\u00a0%`;
}
