/** The state of the X-ray tab, and its form in the address: a link with it reproduces the view. */

/**
 * @typedef {object} State
 * @property {string} text
 * @property {"flow" | "block" | "head"} level
 * @property {number} layer from 0
 * @property {number} position
 * @property {number} head
 * @property {number | null} key
 * @property {string | null} part of the block that is looked at, and the step of its computation: the block's view names them
 * @property {number | null} step
 * @property {object[]} ablations as /v1/inspect takes them
 * @property {"run" | "ablated"} run whose numbers are shown
 * @property {number | null} target the position whose next token is explained; null: the last
 * @property {number | null} token the id of the token that is explained; null: the one that came
 * @property {number} temperature
 * @property {number} topK 21: off
 */

const NUMBERS = { layer: 0, position: null, head: 0, key: null, step: null, target: null, token: null, temperature: 1, topK: 21 };
const LEVELS = ["flow", "block", "head"];

/**
 * @param {Record<string, string>} params of the address
 * @param {string} example the text where the address has none
 * @returns {State}
 */
export function fromParams(params, example) {
  const state = {
    text: params.text ?? example,
    part: params.part ?? null,
    level: LEVELS.find((level) => level === params.level) ?? "flow",
  };
  for (const [name, preset] of Object.entries(NUMBERS)) {
    const given = params[name] ?? ""; // an address has no null, what the shell remembers has
    state[name] = given !== "" && Number.isFinite(Number(given)) ? Number(given) : preset;
  }
  return { ...state, ablations: listOf(params.ablations), run: params.run === "ablated" ? "ablated" : "run" };
}

/** @param {State} state @param {string} language @returns {Record<string, string | number | null>} what differs from the presets */
export function toParams(state, language) {
  const params = { text: state.text, level: state.level === "flow" ? null : state.level, part: state.part };
  for (const [name, preset] of Object.entries(NUMBERS)) params[name] = state[name] === preset ? null : state[name];
  params.ablations = state.ablations.length ? JSON.stringify(state.ablations) : null;
  return { ...params, run: state.run === "run" ? null : state.run, language };
}

/** A link that somebody cut short or wrote wrongly shows the text without switches. */
function listOf(json) {
  try {
    const list = JSON.parse(json ?? "[]");
    return Array.isArray(list) ? list.filter((one) => typeof one?.kind === "string") : [];
  } catch {
    return [];
  }
}

/** What an answer depends on. @param {State} state @returns {string} */
export const questionOf = ({ text, ablations, target, token }) => JSON.stringify([text, ablations, target, token]);

/**
 * Layer and position within what an answer has; without a position the last.
 * @param {State} state @param {number} tokens @param {number} layers @returns {{layer: number, position: number}}
 */
export function clamped({ layer, position }, tokens, layers) {
  const within = (value, count) => Math.min(count - 1, Math.max(0, Math.trunc(value)));
  return { layer: within(layer, layers), position: position === null ? tokens - 1 : within(position, tokens) };
}
