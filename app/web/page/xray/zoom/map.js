/** Paints an attention pattern: a square, a row for each query, a column for each key, darker where the weight is larger. */

/**
 * One pixel a pair, which CSS enlarges. What the mask took out is left clear and shows the hatching behind it: it
 * is not a small weight, there was no choice.
 * The root spreads what is small, as most weights are; the legend shows the same scale.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {Float32Array} pattern (T, T) flat
 * @param {Float32Array} scores (T, T) flat, -Infinity where masked
 * @param {number} size T
 */
export function paint(canvas, pattern, scores, size) {
  canvas.width = canvas.height = size;
  const context = canvas.getContext("2d");
  const image = context.createImageData(size, size);
  const [ink, paper] = colours(canvas);
  for (let i = 0; i < pattern.length; i++) {
    if (scores[i] === -Infinity) continue;
    const strength = Math.sqrt(pattern[i]);
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = paper[c] + (ink[c] - paper[c]) * strength;
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

/** The theme's colours of a weight of 1 and of 0. @param {Element} element */
function colours(element) {
  const style = getComputedStyle(element);
  return ["--accent", "--sheet"].map((name) => parse(style.getPropertyValue(name).trim()));
}

/** @param {string} colour #rrggbb, as the theme has them */
const parse = (colour) => [1, 3, 5].map((at) => Number.parseInt(colour.slice(at, at + 2), 16));

/** Calls when the reader's theme changes: what is painted does not follow CSS. @param {() => void} listener */
export function onTheme(listener) {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", listener);
  return () => dark.removeEventListener("change", listener);
}
