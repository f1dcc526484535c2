/**
 * What was written, kept in this browser alone: the latest entries, each with its prompt, settings, and tokens. Knows no page.
 *
 * @typedef {import("./units.js").Token} Token
 * @typedef {{ tokens: Token[], seed: string, finish: string | null }} SavedSample
 * @typedef {{ id: number, at: number, kind: "write", prompt: string, ids: number[] | null, parameters: Record<string, any>,
 *   values: Record<string, any>, samples: SavedSample[] }} Written
 * @typedef {{ id: number, at: number, kind: "chat", messages: { role: string, content: string }[] }} Talk
 * @typedef {Written | Talk} Entry
 */

const NAME = "history"; // of localStorage
export const MAX_ENTRIES = 60;
const MAX_CHARACTERS = 2_000_000; // of all together: browsers give a page about 5 million

/** The newest first; what another version of the page left, or somebody broke, counts as none. @returns {Entry[]} */
export function all() {
  try {
    const entries = JSON.parse(localStorage.getItem(NAME) ?? "[]");
    return entries.map((entry) => (entry.kind === "write" ? { ...entry, samples: entry.samples.map(unpackedSample) } : entry));
  } catch {
    return [];
  }
}

/** Put an entry in front, in place of one with the same id, and let go of the oldest that have no room. @param {Entry} entry */
export function keep(entry) {
  const packed = entry.kind === "write" ? { ...entry, samples: entry.samples.map(packedSample) } : entry;
  store([packed, ...stored().filter(({ id }) => id !== entry.id)].slice(0, MAX_ENTRIES));
}

export const remove = (id) => store(stored().filter((entry) => entry.id !== id));

/** All of a kind. @param {Entry["kind"]} kind */
export const removeAll = (kind) => store(stored().filter((entry) => entry.kind !== kind));

function stored() {
  try {
    return JSON.parse(localStorage.getItem(NAME) ?? "[]");
  } catch {
    return [];
  }
}

function store(entries) {
  if (!entries.length) return localStorage.removeItem(NAME);
  const text = JSON.stringify(entries);
  try {
    if (text.length > MAX_CHARACTERS) throw new RangeError("the entries are too long together");
    localStorage.setItem(NAME, text);
  } catch {
    store(entries.slice(0, -1)); // without the oldest
  }
}

/** Tokens as short lists: five alternatives each make most of an entry. */
const packedSample = (sample) => ({ ...sample, tokens: sample.tokens.map(packed) });
const unpackedSample = (sample) => ({ ...sample, tokens: sample.tokens.map(unpacked) });

function packed({ id, text, logprob, special, chosen, top }) {
  const rest = [rounded(logprob), special ? 1 : 0, chosen ? 1 : 0];
  return [id, text, ...rest, top.map((other) => [other.id, other.text, rounded(other.logprob), other.special ? 1 : 0])];
}

function unpacked([id, text, logprob, special, chosen, top]) {
  const others = top.map(([id, text, logprob, special]) => ({ id, text, logprob, special: special === 1 }));
  return { id, text, logprob, special: special === 1, chosen: chosen === 1, top: others };
}

const rounded = (logprob) => (logprob === null ? null : Math.round(logprob * 1e4) / 1e4);
