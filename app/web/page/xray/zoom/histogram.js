/** A histogram of the features of one token, with its range, its mean and what lies outside told in words. */

import { el, svg } from "../../dom.js";
import { t } from "../../i18n.js";
import { deviation, figure, histogram, mean } from "./numbers.js";

const BINS = 41; // odd, so that zero or the mean has a bar of its own
const HEIGHT = 72;
const STEP = 6; // of a bar, in the picture's units

/**
 * @param {string} title
 * @returns {{node: HTMLElement, show: (values: ArrayLike<number>, low: number, high: number) => void}}
 */
export function histogramFigure(title) {
  const bars = svg("path", { class: "zoom-bars" });
  const centre = svg("path", { class: "zoom-mean" });
  const box = {
    class: "zoom-histogram",
    viewBox: `0 0 ${BINS * STEP} ${HEIGHT}`,
    preserveAspectRatio: "none",
    "aria-hidden": "true",
  };
  const low = el("span");
  const high = el("span");
  const middle = el("span");
  const told = el("figcaption");
  const axis = el("div", { class: "zoom-range", "aria-hidden": "true" }, low, middle, high);
  const node = el(
    "figure",
    { class: "zoom-figure" },
    el("h4", null, title),
    svg("svg", box, svg("path", { class: "zoom-axis", d: `M0 ${HEIGHT}H${BINS * STEP}` }), bars, centre),
    axis,
    told,
  );
  const show = (values, from, to) => {
    const { counts, below, above } = histogram(values, from, to, BINS);
    bars.setAttribute("d", columns(counts));
    const at = ((mean(values) - from) / (to - from)) * BINS * STEP;
    centre.setAttribute("d", `M${at.toFixed(1)} 0V${HEIGHT}`);
    low.textContent = figure(from, 1);
    middle.textContent = figure((from + to) / 2, 1);
    high.textContent = figure(to, 1);
    told.textContent = words(values, below + above);
  };
  return { node, show };
}

/** The histogram in numbers. @param {ArrayLike<number>} values @param {number} outside how many the picture does not show */
function words(values, outside) {
  const told = {
    mean: figure(mean(values)),
    deviation: figure(deviation(values)),
    low: figure(Math.min(...values)),
    high: figure(Math.max(...values)),
  };
  return t("zoom.told", told) + (outside ? t("zoom.outside", { count: outside }) : "");
}

/** @param {number[]} counts */
function columns(counts) {
  const most = Math.max(1, ...counts);
  return counts
    .map((count, i) => `M${i * STEP + 0.5} ${HEIGHT}v${((-count / most) * (HEIGHT - 4)).toFixed(1)}h${STEP - 1}V${HEIGHT}z`)
    .join("");
}
