/** What the parts of the page read from an answer of /v1/inspect. Pure: knows the answer's shape, no document. */

/** The numbers of a run along the way of one position's residual stream; `points` are the norms after 0, 1, .. 2 L additions. */
export function streamAt(run, position) {
  const { norms } = run.summaries;
  const points = [norms.resid_pre[0][position]];
  norms.resid_mid.forEach((mid, layer) => points.push(mid[position], norms.resid_post[layer][position]));
  const column = (rows) => rows.map((row) => row[position]);
  return {
    points,
    embed: norms.embed[position],
    positional: norms.pos_embed[position],
    attention: column(norms.attn_out),
    mlp: column(norms.mlp_out),
    attentionCosine: column(norms.attn_cosine),
    mlpCosine: column(norms.mlp_cosine),
  };
}

/**
 * The largest norm of a run that is drawn at full width. The first position is left out where others are: GPT-2 writes a norm
 * there that is many times theirs, and by its measure all others would be threads.
 */
export function scaleOf(run) {
  const { norms } = run.summaries;
  const rows = [...norms.resid_pre, ...norms.resid_mid, ...norms.resid_post, ...norms.attn_out, ...norms.mlp_out];
  return Math.max(...rows.flatMap((row) => (row.length > 1 ? row.slice(1) : row)), 1e-9);
}

/** The mean pattern of each layer over its heads, [layer][query][key]; null where the run holds none. */
export function meanPatterns(run, layers) {
  const patterns = Array.from({ length: layers }, (_, layer) => run?.activations?.[`blocks.${layer}.attn.hook_pattern`]?.data);
  return patterns.every(Boolean) ? patterns.map(meanOverHeads) : null;
}

function meanOverHeads(heads) {
  return heads[0].map((row, query) =>
    row.map((_, key) => heads.reduce((sum, head) => sum + (head[query][key] ?? 0), 0) / heads.length),
  );
}

/**
 * The likeliest tokens at temperature and top-k. Exact: with top-k at most the tokens known, softmax(logits / temperature) over
 * the k best is p ** (1 / temperature), normalised over them, since the logits' common sum drops out.
 * A top-k beyond them drops nothing: the network's own probabilities.
 * @param {{probability: number}[]} known the best tokens, likeliest first
 */
export function adjusted(known, temperature, topK) {
  if (topK > known.length) return known.map(({ probability }) => probability);
  const best = known.slice(0, topK);
  if (temperature === 0) return known.map((_, i) => (i === 0 ? 1 : 0));
  const top = Math.log(best[0].probability);
  const weights = best.map(({ probability }) => Math.exp((Math.log(probability) - top) / temperature));
  const sum = weights.reduce((a, b) => a + b, 0);
  return known.map((_, i) => (i < topK ? weights[i] / sum : 0));
}

/**
 * The token by which ranks after the last position are told, since none came there: the one that is explained, or, where another
 * position is, the likeliest of the run without switches.
 */
export function expectedAfterLast({ tokens, run }) {
  const { position, token } = run.summaries.attribution;
  return position === tokens.length - 1 ? token : run.next[0];
}

/** How far from 0 a list of lists of numbers goes. */
export const reach = (rows) => Math.max(1e-9, ...rows.flat().map(Math.abs));

/** A token as it is shown: its spaces and line breaks made visible. */
export function shown(text) {
  if (text === "") return "∅";
  return text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replace(/^ /, "·").replace(/ $/, "·");
}

/** A token cut for a narrow place. */
export function brief(text, length = 9) {
  const whole = shown(text);
  return whole.length > length ? `${whole.slice(0, length - 1)}…` : whole;
}

/** A probability in percent with as many places as it takes to tell. */
export function percent(probability) {
  const value = 100 * probability;
  if (value >= 9.95) return `${value.toFixed(0)}%`;
  if (value >= 0.1) return `${value.toFixed(1)}%`;
  return value === 0 ? "0" : "<0.1%";
}

/** A number with a true minus, and never minus zero. */
export function plain(number, places = 2) {
  const text = number.toFixed(places);
  return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−");
}

/** A signed number with a true minus. */
export const signed = (number, places = 2) => `${number < 0 ? "−" : "+"}${Math.abs(number).toFixed(places)}`;
