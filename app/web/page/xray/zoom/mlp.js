/** The MLP of one token: its neurons before and after GELU, the strongest of them, and how many are silent. */

import { el, svg } from "../../dom.js";
import { t } from "../../i18n.js";
import { explanation } from "./explanation.js";
import { mlp } from "./formulas.js";
import { histogramFigure } from "./histogram.js";
import { figure, gelu, magnitude, percent, strongest } from "./numbers.js";

const STRONGEST = 8;
const LEFT = -4;
const RIGHT = 4;
const TOP = 4;
const BOTTOM = -0.6;
const WIDTH = 320; // of the curve in the picture, as HEIGHT; before it the values that it reaches
const HEIGHT = 200;

/**
 * @param {import("./zoom.js").Scene} scene
 * @param {import("./activations.js").Activations} block
 */
export function mlpPanel(scene, block) {
  const before = histogramFigure(t("zoom.mlp.pre"));
  const after = histogramFigure(t("zoom.mlp.post"));
  const curve = geluCurve();
  const table = neuronTable();
  const silent = el("p", { class: "zoom-note" });
  const text = t("zoom.mlp.text", { size: block.hook_pre.shape[1] });
  const node = el(
    "div",
    null,
    explanation(t("zoom.mlp"), text, mlp()),
    el("div", { class: "zoom-figures" }, before.node, curve.node, after.node, el("div", null, table.node, silent)),
  );
  const show = ({ position }) => {
    const pre = block.hook_pre.row(position);
    const post = block.hook_post.row(position);
    const reach = Math.max(1, Math.min(magnitude(pre), 6));
    before.show(pre, -reach, reach);
    after.show(post, -reach, reach);
    curve.show(pre, post);
    table.show(pre, post);
    const num = pre.reduce((count, x) => count + (x <= 0 ? 1 : 0), 0);
    silent.textContent = t("zoom.mlp.silent", { num, size: pre.length, share: percent(num / pre.length) });
  };
  return { node, show };
}

const x = (u) => ((u - LEFT) / (RIGHT - LEFT)) * WIDTH;
const y = (u) => ((TOP - u) / (TOP - BOTTOM)) * HEIGHT;

/** gelu with this position's values on it. */
function geluCurve() {
  const points = Array.from({ length: 161 }, (_, i) => LEFT + (i * (RIGHT - LEFT)) / 160);
  const line = svg("path", {
    class: "zoom-curve",
    d: `M${points.map((u) => `${x(u).toFixed(1)} ${y(gelu(u)).toFixed(1)}`).join("L")}`,
  });
  const axes = svg("path", { class: "zoom-axis", d: `M0 ${y(0)}H${WIDTH}M${x(0)} 0V${HEIGHT}` });
  const dots = svg("path", { class: "zoom-dots" });
  const picture = svg("svg", { class: "zoom-gelu", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, "aria-hidden": "true" }, axes, line, dots);
  const range = el(
    "div",
    { class: "zoom-range", "aria-hidden": "true" },
    [LEFT, 0, RIGHT].map((u) => el("span", null, figure(u, 0))),
  );
  const told = el("figcaption");
  const show = (pre, post) => {
    dots.setAttribute("d", marks(pre, post));
    const outside = pre.reduce((count, u) => count + (u < LEFT || u > RIGHT ? 1 : 0), 0);
    told.textContent = t("zoom.mlp.curve", { count: outside });
  };
  return { node: el("figure", { class: "zoom-figure" }, el("h4", null, "GELU"), picture, range, told), show };
}

/** A dot for each value, at what the model made of it; those that would cover each other are one. */
function marks(pre, post) {
  const seen = new Set();
  pre.forEach((u, i) => {
    if (u >= LEFT && u <= RIGHT) seen.add(`M${Math.round(x(u))} ${y(post[i]).toFixed(1)}h0`);
  });
  return [...seen].join("");
}

/** The neurons that say most, by the magnitude of what they pass on. */
function neuronTable() {
  const rows = Array.from({ length: STRONGEST }, () => [el("th", { scope: "row" }), el("td"), el("td")]);
  const head = ["zoom.mlp.neuron", "zoom.mlp.pre_short", "zoom.mlp.post_short"].map((key) => el("th", { scope: "col" }, t(key)));
  const node = el(
    "table",
    { class: "zoom-neurons" },
    el("caption", null, t("zoom.mlp.strongest")),
    el("thead", null, el("tr", null, head)),
    el(
      "tbody",
      null,
      rows.map((row) => el("tr", null, row)),
    ),
  );
  const show = (pre, post) => {
    const best = strongest(post.length, STRONGEST, (i) => Math.abs(post[i]));
    best.forEach((neuron, i) =>
      [String(neuron), figure(pre[neuron]), figure(post[neuron])].forEach((text, j) => (rows[i][j].textContent = text)),
    );
  };
  return { node, show };
}
