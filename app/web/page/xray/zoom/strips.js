/** A vector as a strip of bars, one a feature, up for what is positive and down for what is negative. */

import { svg } from "../../dom.js";
import { magnitude } from "./numbers.js";

const HEIGHT = 40;

/**
 * @param {number} size how many features
 * @returns {{node: SVGSVGElement, show: (values: ArrayLike<number>, scale?: number) => void}} scale: the magnitude of a bar of full height
 */
export function strip(size) {
  const path = svg("path", { class: "zoom-bars" });
  const zero = svg("path", { class: "zoom-axis", d: `M0 ${HEIGHT / 2}H${size}` });
  const node = svg(
    "svg",
    { class: "zoom-vector", viewBox: `0 0 ${size} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    zero,
    path,
  );
  const show = (values, scale = magnitude(values)) => path.setAttribute("d", bars(values, scale || 1));
  return { node, show };
}

/** All bars in one path: one attribute changes when another vector is shown. */
function bars(values, scale) {
  let d = "";
  for (let i = 0; i < values.length; i++) {
    const height = (-values[i] / scale) * (HEIGHT / 2 - 1);
    d += `M${i + 0.15} ${HEIGHT / 2}v${height.toFixed(2)}h.7v${(-height).toFixed(2)}z`;
  }
  return d;
}
