/** Pre- against post-LayerNorm on an untrained network: the gradient that reaches each block, as a small chart. */

import { clear, el, svg } from "../dom.js";
import { t } from "../i18n.js";

const WIDTH = 480,
  HEIGHT = 190,
  LEFT = 52,
  RIGHT = 112,
  TOP = 14,
  BOTTOM = 30;

/** @param {() => void} onAsk */
export function makeOrder(onAsk) {
  const figure = el("div", { class: "order" });
  const button = el("button", { type: "button", id: "xray-order", onclick: onAsk }, t("xray.order.ask"));
  return {
    node: el("div", null, button, figure),
    fill: (found) => clear(figure).append(...(found ? [chart(found), tableOf(found)] : [])),
  };
}

function chart({ pre, post }) {
  const all = [...pre.gradient_norms, ...post.gradient_norms].map(Math.log10);
  const [low, high] = [Math.floor(Math.min(...all)), Math.ceil(Math.max(...all))];
  const x = (layer) => LEFT + (layer / Math.max(1, pre.gradient_norms.length - 1)) * (WIDTH - LEFT - RIGHT);
  const y = (power) => TOP + ((high - power) / Math.max(1, high - low)) * (HEIGHT - TOP - BOTTOM);
  const powers = Array.from({ length: high - low + 1 }, (_, i) => low + i);
  const grid = powers.flatMap((power) => [
    svg("line", { class: "grid-line", x1: LEFT, x2: WIDTH - RIGHT, y1: y(power), y2: y(power) }),
    svg("text", { class: "number", x: LEFT - 6, y: y(power) + 4, "text-anchor": "end" }, `10${superscript(power)}`),
  ]);
  const labels = pre.gradient_norms.map((_, layer) =>
    svg("text", { class: "number", x: x(layer), y: HEIGHT - 10, "text-anchor": "middle" }, layer),
  );
  const lines = [
    ["pre", pre],
    ["post", post],
  ].map(([name, { gradient_norms: norms }]) =>
    line(
      name,
      norms.map((norm, layer) => [x(layer), y(Math.log10(norm))]),
    ),
  );
  return svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": t("xray.order.label") }, grid, labels, lines);
}

function line(name, points) {
  const [lastX, lastY] = points.at(-1);
  return svg(
    "g",
    { class: name },
    svg("polyline", { points: points.map((point) => point.map((value) => value.toFixed(1)).join(",")).join(" ") }),
    points.map(([cx, cy]) =>
      name === "pre" ? svg("circle", { cx, cy, r: 3.5 }) : svg("rect", { x: cx - 3.5, y: cy - 3.5, width: 7, height: 7 }),
    ),
    svg("text", { x: lastX + 8, y: lastY + 4 }, name === "pre" ? t("xray.order.pre") : t("xray.order.post")),
  );
}

const superscript = (power) => [...String(power)].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit] ?? "⁻").join("");

function tableOf({ pre, post }) {
  const rows = pre.gradient_norms.map((norm, layer) =>
    el(
      "tr",
      null,
      el("th", { scope: "row" }, layer),
      el("td", { class: "number" }, norm.toPrecision(3)),
      el("td", { class: "number" }, post.gradient_norms[layer].toPrecision(3)),
    ),
  );
  const head = [t("xray.reading.block"), t("xray.order.pre"), t("xray.order.post")].map((name) => el("th", { scope: "col" }, name));
  return el(
    "table",
    { class: "numbers" },
    el("caption", null, t("xray.order.caption", { pre: pre.loss.toFixed(2), post: post.loss.toFixed(2) })),
    el("thead", null, el("tr", null, head)),
    el("tbody", null, rows),
  );
}
