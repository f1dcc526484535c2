/** The arithmetic of one block on plain arrays, and how figures are written. Knows neither the page nor the service. */

/** @typedef {Float32Array | number[]} Vector */

/** @param {Vector} a @param {Vector} b */
export function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

/** @param {Vector} a */
export const norm = (a) => Math.sqrt(dot(a, a));

/** @param {Vector} a */
export function mean(a) {
  let sum = 0;
  for (const x of a) sum += x;
  return sum / a.length;
}

/** The root of the mean squared distance from the mean, over all of them (no n - 1), as LayerNorm takes it. @param {Vector} a */
export function deviation(a) {
  const centre = mean(a);
  let sum = 0;
  for (const x of a) sum += (x - centre) ** 2;
  return Math.sqrt(sum / a.length);
}

/** @param {Vector} a @param {Vector} b the largest difference of two elements */
export function distance(a, b) {
  let largest = 0;
  for (let i = 0; i < a.length; i++) largest = Math.max(largest, Math.abs(a[i] - b[i]));
  return largest;
}

/** The largest magnitude, and 0 of none. @param {Vector} a */
export function magnitude(a) {
  let largest = 0;
  for (const x of a) largest = Math.max(largest, Math.abs(x));
  return largest;
}

/** GPT-2's GELU, the tanh form: u/2 (1 + tanh(sqrt(2/pi) (u + 0.044715 u³))). @param {number} u */
export const gelu = (u) => (u / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (u + 0.044715 * u ** 3)));

/** Indices of the `count` largest by `key`, largest first. @param {number} length @param {(i: number) => number} key */
export function strongest(length, count, key) {
  return Array.from({ length }, (_, i) => i)
    .sort((a, b) => key(b) - key(a))
    .slice(0, count);
}

/**
 * How many of the values fall into each of `bins` equal parts of low..high, and how many lie outside.
 * @param {Vector} values
 * @returns {{counts: number[], below: number, above: number}}
 */
export function histogram(values, low, high, bins) {
  const counts = new Array(bins).fill(0);
  let below = 0;
  let above = 0;
  for (const x of values) {
    if (x < low) below++;
    else if (x > high) above++;
    else counts[Math.min(bins - 1, Math.floor(((x - low) / (high - low)) * bins))]++;
  }
  return { counts, below, above };
}

/** A figure with a true minus sign; what the mask put there is -∞, what is not known a dash. @param {number | null} x */
export function figure(x, digits = 3) {
  if (x === -Infinity) return "−∞";
  if (x === null || !Number.isFinite(x)) return "–";
  const text = Math.abs(x) >= 1e5 ? x.toExponential(1) : x.toFixed(digits);
  return text.replace(/^-(?=[0.]*$)/, "").replaceAll("-", "−"); // no -0.000
}

/** A weight, which may be small and still is not 0. @param {number} x */
export const weightFigure = (x) => (x > 0 && x < 5e-4 ? x.toExponential(1).replace("-", "−") : figure(x));

/** @param {number} x */
export const percent = (x) => `${(100 * x).toFixed(x < 0.0995 ? 1 : 0)} %`;
