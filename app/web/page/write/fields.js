/**
 * The fields of a request that a reader may set: their ranges, and what the service takes if they are absent (docs/api.md).
 * Knows no page.
 *
 * @typedef {"number" | "whole" | "lines" | "ids" | "bias" | "check"} Kind
 * @typedef {{ name: string, label: string, kind: Kind, absent: string | boolean, min?: number, max?: number, step?: number,
 *   hint?: string, noChat?: boolean }} Field  `hint`: the key of a placeholder; `noChat`: OpenAI's chat has nothing of the kind
 */

/** Those that are folded away, in the order in which they are shown. @type {Field[]} */
export const FOLDED = [
  { name: "stop", label: "write.field.stop", kind: "lines", absent: "", hint: "write.stop_hint" },
  { name: "logit_bias", label: "write.field.logit_bias", kind: "bias", absent: "", hint: "write.bias_hint" },
  { name: "stop_token_ids", label: "write.field.stop_token_ids", kind: "ids", absent: "" },
  { name: "top_k", label: "write.field.top_k", kind: "whole", absent: "0", min: 0, step: 1 },
  { name: "min_p", label: "write.field.min_p", kind: "number", absent: "0", min: 0, max: 1, step: 0.01 },
  { name: "typical_p", label: "write.field.typical_p", kind: "number", absent: "1", min: 0.01, max: 1, step: 0.01, noChat: true },
  {
    name: "repetition_penalty",
    label: "write.field.repetition_penalty",
    kind: "number",
    absent: "1",
    min: 0.05,
    max: 1000,
    step: 0.05,
  },
  { name: "frequency_penalty", label: "write.field.frequency_penalty", kind: "number", absent: "0", min: -2, max: 2, step: 0.1 },
  { name: "presence_penalty", label: "write.field.presence_penalty", kind: "number", absent: "0", min: -2, max: 2, step: 0.1 },
  { name: "min_new_tokens", label: "write.field.min_new_tokens", kind: "whole", absent: "0", min: 0, step: 1 },
  { name: "truncate", label: "write.field.truncate", kind: "whole", absent: "", min: 1, step: 1, noChat: true },
  {
    name: "timeout_seconds",
    label: "write.field.timeout_seconds",
    kind: "number",
    absent: "",
    min: 0.001,
    max: 86400,
    step: 0.001,
  },
  { name: "ignore_eos", label: "write.field.ignore_eos", kind: "check", absent: false },
  { name: "skip_special_tokens", label: "write.field.skip_special_tokens", kind: "check", absent: true },
  { name: "parse_special", label: "write.field.parse_special", kind: "check", absent: true },
  { name: "add_special_tokens", label: "write.field.add_special_tokens", kind: "check", absent: true },
];

/** What a field of this kind sends for what was typed; the service says what is wrong with what is no number. */
const SENT = {
  number: numberOr,
  whole: numberOr,
  check: (value) => value,
  lines: (value) => value.split("\n").filter(Boolean).map(unescaped),
  ids: (value) =>
    value
      .split(/[\s,]+/)
      .filter(Boolean)
      .map(numberOr),
  bias: (value) =>
    Object.fromEntries(
      value
        .split(/[\n,]+/)
        .map((line) => line.trim())
        .filter(Boolean)
        .map(biasOf),
    ),
};

/** @typedef {Record<string, string | boolean>} Values of all fields, as they were typed */

/** The parameters of /generate: fields that say what the service takes anyway are left out. @param {Values} values */
export function parametersOf(values) {
  const parameters = { max_new_tokens: Number(values.length), temperature: Number(values.temperature) };
  if (Number(values.top_p) !== 1) parameters.top_p = Number(values.top_p);
  if (Number(values.n) > 1) parameters.n = Number(values.n);
  for (const { name, kind, absent } of FOLDED) {
    const value = values[name];
    if (value !== absent && value !== "") parameters[name] = SENT[kind](value);
  }
  const seed = String(values.seed).trim(); // as its digits: a number would be exact up to 2^53 alone
  return { ...parameters, top_n_tokens: 5, ...(seed ? { seed } : {}) };
}

/** Those of them that say how a prompt becomes tokens, for /tokenize. */
export function readingOf({ truncate, parse_special, add_special_tokens }) {
  const reading = { parse_special, add_special_tokens };
  return truncate === undefined ? reading : { ...reading, parameters: { truncate } };
}

/** The same for OpenAI's chat, which has other names for some and knows nothing of others. */
export function chatFieldsOf(parameters) {
  const { max_new_tokens, min_new_tokens, n, top_n_tokens, typical_p, truncate, ...same } = parameters;
  return { max_tokens: max_new_tokens, ...(min_new_tokens ? { min_tokens: min_new_tokens } : {}), ...same };
}

function numberOr(text) {
  const value = Number(text);
  return Number.isNaN(value) ? text : value;
}

function biasOf(line) {
  const [id, value = ""] = line.split(/[:=\s]+/);
  return [id, value === "" ? value : numberOr(value)];
}

/** \n, \t and \\ in a line stand for what a line cannot hold. */
function unescaped(line) {
  return line.replace(/\\([nt\\])/g, (_, letter) => ({ n: "\n", t: "\t", "\\": "\\" })[letter]);
}
