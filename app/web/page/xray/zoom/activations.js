/** The activations of one block, asked of /v1/inspect once for each text, block, part and set of ablations. Knows no picture. */

/** What each part of the picture needs of a block; a request has all of them, so that scrubbing needs none. */
const NAMES = {
  attention: [
    "attn.hook_q",
    "attn.hook_k",
    "attn.hook_v",
    "attn.hook_attn_scores",
    "attn.hook_pattern",
    "attn.hook_z",
    "hook_attn_out",
  ],
  layer_norm: [
    "hook_resid_pre",
    "hook_resid_mid",
    "ln1.hook_scale",
    "ln1.hook_normalized",
    "ln2.hook_scale",
    "ln2.hook_normalized",
  ],
  mlp: ["mlp.hook_pre", "mlp.hook_post"],
};
const FINAL = ["hook_resid_post", "ln_final.hook_scale", "ln_final.hook_normalized"]; // of the last block, for its ln_final

/** Numbers in one flat array, with the shape they are read by. */
export class Tensor {
  /** @param {{shape: number[], data: any}} activation as the service sends it; a masked score is null there and -Infinity here */
  constructor({ shape, data }) {
    this.shape = shape;
    this.data = Float32Array.from(data.flat(shape.length - 1), (x) => x ?? -Infinity);
  }

  /** The last axis at these indices of the others, a view that copies nothing. @param {...number} indices */
  row(...indices) {
    const width = this.shape.at(-1);
    const start = indices.reduce((sum, index, axis) => sum * this.shape[axis] + index, 0);
    return this.data.subarray(start * width, (start + 1) * width);
  }

  /** Everything under one index of the first axis, flat. @param {number} index */
  under(index) {
    const size = this.data.length / this.shape[0];
    return this.data.subarray(index * size, (index + 1) * size);
  }
}

/**
 * @typedef {Record<string, Tensor>} Activations  by the end of their hook's name: "hook_q", "ln1.hook_scale"
 * @typedef {{ activations: Activations, attention: Record<string, (number | null)[]> | null }} Part of one run; attention: the
 *   block's scores of its heads, with part "attention"
 * @typedef {{ run: Part, ablated: Part | null }} Runs
 */

/** Asks for the blocks of one text under one set of ablations, and remembers what it was given. */
export class Blocks {
  #known = new Map();
  #abort = new AbortController();

  /** @param {any} client @param {{id: number}[]} tokens @param {object[]} ablations @param {number} numLayers */
  constructor(client, tokens, ablations, numLayers) {
    Object.assign(this, { client, prompt: tokens.map((token) => token.id), ablations, numLayers });
  }

  /** @param {number} layer @param {"attention" | "layer_norm" | "mlp"} part @returns {Promise<Runs>} */
  part(layer, part) {
    const summaries = part === "attention" ? [part] : [];
    return this.#once(`${layer} ${part}`, () => this.#ask(layer, names(layer, part, this.numLayers), this.ablations, summaries));
  }

  /**
   * attn_out without one head: what is missing from it is what that head's c_proj adds to the stream.
   * @param {number} layer @param {number} head @param {boolean} isAblated on top of the ablations, or of none
   * @returns {Promise<Tensor>}
   */
  async withoutHead(layer, head, isAblated) {
    const ablations = [...(isAblated ? this.ablations : []), { kind: "head", layer, head, mode: "zero" }];
    const ask = () => this.#ask(layer, [`blocks.${layer}.hook_attn_out`], ablations, []);
    return (await this.#once(`${layer} ${head} ${isAblated}`, ask)).ablated.activations.hook_attn_out;
  }

  /** End what is under way: its text or its ablations are no longer shown. */
  abort() {
    this.#abort.abort();
  }

  #once(key, ask) {
    if (!this.#known.has(key)) {
      const asked = ask();
      asked.catch(() => this.#known.delete(key)); // a failure is asked again
      this.#known.set(key, asked);
    }
    return this.#known.get(key);
  }

  async #ask(layer, names, ablations, summaries) {
    const body = { prompt: this.prompt, names, summaries, ablations, max_new_tokens: 0, compare_served: false };
    const answer = await this.client.post("v1/inspect", body, { signal: this.#abort.signal });
    return { run: part(answer.run, layer), ablated: answer.ablated && part(answer.ablated, layer) };
  }
}

function names(layer, part, numLayers) {
  const inBlock = NAMES[part].map((name) => `blocks.${layer}.${name}`);
  if (part !== "layer_norm" || layer !== numLayers - 1) return inBlock;
  return [...inBlock, `blocks.${layer}.${FINAL[0]}`, ...FINAL.slice(1)];
}

/** @param {any} run @param {number} layer @returns {Part} */
function part({ activations, summaries }, layer) {
  const short = (name) => name.replace(/^blocks\.\d+\.(attn\.|mlp\.)?/, "");
  const tensors = Object.entries(activations).map(([name, activation]) => [short(name), new Tensor(activation)]);
  const attention = summaries.attention && Object.entries(summaries.attention).map(([name, layers]) => [name, layers[layer]]);
  return { activations: Object.fromEntries(tensors), attention: attention ? Object.fromEntries(attention) : null };
}
