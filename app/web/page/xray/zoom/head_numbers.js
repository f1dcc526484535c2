/** One head of one block, number by number: what the service sent, and what can be computed again from it. Knows no picture. */

import { dot, magnitude } from "./numbers.js";

export class Head {
  /** @param {import("./activations.js").Activations} block @param {number} head */
  constructor(block, head) {
    Object.assign(this, { block, head, size: block.hook_q.shape[0], width: block.hook_q.shape[2] });
  }

  q(query) {
    return this.block.hook_q.row(query, this.head);
  }
  k(key) {
    return this.block.hook_k.row(key, this.head);
  }
  v(key) {
    return this.block.hook_v.row(key, this.head);
  }
  z(query) {
    return this.block.hook_z.row(query, this.head);
  }

  /** Computed here, of keys that the mask takes out too. */
  product(query, key) {
    return dot(this.q(query), this.k(key));
  }
  scaled(query, key) {
    return this.product(query, key) / Math.sqrt(this.width);
  }

  /** As the model has them, scaled and masked, and their softmax: rows over all keys. */
  scores(query) {
    return this.block.hook_attn_scores.row(this.head, query);
  }
  weights(query) {
    return this.block.hook_pattern.row(this.head, query);
  }

  /** The softmax of a row in its parts; taking the largest score from all changes no weight, and no power overflows. */
  softmax(query) {
    const scores = this.scores(query);
    const largest = scores.reduce((most, score) => Math.max(most, score), -Infinity);
    return { largest, sum: scores.reduce((sum, score) => sum + Math.exp(score - largest), 0) };
  }

  /** A key's value times its weight. */
  weighted(query, key) {
    return this.v(key).map((x) => x * this.weights(query)[key]);
  }

  /** The sum of all values by their weights, computed here. */
  mixed(query) {
    const mixed = new Float64Array(this.width);
    const weights = this.weights(query);
    for (let key = 0; key < this.size; key++) if (weights[key]) this.v(key).forEach((x, c) => (mixed[c] += weights[key] * x));
    return mixed;
  }
}

/** Whether two figures are one but for rounding in float32: an ablation may have put another in its place. */
export const agree = (a, b) => Math.abs(a - b) <= 1e-3 * Math.max(1, Math.abs(a));

/** The same of two vectors. */
export const vectorsAgree = (a, b) => magnitude(a.map((x, i) => x - b[i])) <= 1e-3 * Math.max(1, magnitude(a));
