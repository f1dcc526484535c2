/** The inside of a block as a diagram: the stream, what leaves it into LayerNorm, attention and MLP, and where they are added to it. */

import { el, svg } from "../../dom.js";
import { t } from "../../i18n.js";
import { choice } from "./choice.js";
import { figure } from "./numbers.js";

/** The parts that can be looked into, in the order of the computation; the last block's stream ends in ln_final. */
export const PARTS = ["ln1", "attention", "add1", "ln2", "mlp", "add2", "ln_final"];
const NAMES = {
  ln1: "zoom.part.ln1",
  attention: "zoom.attention",
  add1: "zoom.part.add1",
  ln2: "zoom.part.ln2",
  mlp: "zoom.mlp",
  add2: "zoom.part.add2",
  ln_final: "zoom.part.ln_final",
};
/** What is drawn of the stream and the branches, by the norms' names, and where their figures stand: "start" or "end" of that point. */
const WIDE = {
  size: [1080, 236],
  boxes: {
    ln1: [80, 150, 120, 52],
    attention: [228, 150, 132, 52],
    add1: [410, 60],
    ln2: [502, 150, 120, 52],
    mlp: [650, 150, 132, 52],
    add2: [832, 60],
    ln_final: [934, 34, 120, 52],
  },
  lines: {
    resid_pre: "M8 60H410",
    resid_mid: "M410 60H832",
    resid_post: "M832 60H1072",
    attn_out: "M360 176H410V60",
    mlp_out: "M782 176H832V60",
  },
  taps: "M56 60V176H80M200 176H228M478 60V176H502M622 176H650",
  figures: {
    resid_pre: [232, 32, "middle"],
    resid_mid: [620, 32, "middle"],
    resid_post: [858, 104, "start"],
    attn_out: [398, 132, "end"],
    mlp_out: [820, 132, "end"],
  },
};
const TALL = {
  size: [340, 640],
  boxes: {
    ln1: [112, 76, 200, 50],
    attention: [112, 152, 200, 50],
    add1: [48, 248],
    ln2: [112, 334, 200, 50],
    mlp: [112, 410, 200, 50],
    add2: [48, 506],
    ln_final: [4, 576, 92, 50],
  },
  lines: {
    resid_pre: "M48 8V248",
    resid_mid: "M48 248V506",
    resid_post: "M48 506V634",
    attn_out: "M212 202V248H48",
    mlp_out: "M212 460V506H48",
  },
  taps: "M48 56H212V76M212 126V152M48 314H212V334M212 384V410",
  figures: {
    resid_pre: [76, 34, "start"],
    resid_mid: [76, 290, "start"],
    resid_post: [76, 552, "start"],
    attn_out: [222, 232, "start"],
    mlp_out: [222, 490, "start"],
  },
};
const WIDEST = 22; // a line's width for the largest norm of the position

/**
 * Both layouts are made, and CSS shows one of them.
 *
 * @param {import("./zoom.js").Scene} scene
 * @param {(part: string) => void} onChoose
 */
export function blockDiagram(scene, onChoose) {
  const parts = scene.layer === scene.numLayers - 1 ? PARTS : PARTS.slice(0, -1);
  const diagrams = [diagram(WIDE, "zoom-wide", parts, onChoose), diagram(TALL, "zoom-tall", parts, onChoose)];
  const told = el("p", { class: "zoom-note" });
  const node = el(
    "div",
    { class: "zoom-diagram" },
    diagrams.map((each) => each.node),
    told,
  );
  const show = ({ part, position }) => {
    diagrams.forEach((each) => each.show(part, normsAt(scene, position)));
    told.textContent = t("zoom.diagram", { position });
  };
  return { node, picture: diagrams[0].node, show };
}

/** @returns {Record<string, number | null>} */
function normsAt({ norms }, position) {
  return Object.fromEntries(Object.keys(WIDE.lines).map((name) => [name, norms[name][position]]));
}

function diagram({ size, boxes, lines, taps, figures }, className, parts, onChoose) {
  const paths = Object.entries(lines).map(([name, d]) =>
    svg("path", { d, class: name.startsWith("resid") ? "zoom-stream" : "zoom-branch" }),
  );
  const labels = Object.values(figures).map(([x, y, anchor]) => svg("text", { x, y, "text-anchor": anchor, class: "zoom-norm" }));
  const items = parts.map((part) => box(part, boxes[part]));
  const picture = svg(
    "svg",
    { class: className, viewBox: `0 0 ${size.join(" ")}` },
    svg("path", { d: taps, class: "zoom-tap" }),
    paths.reverse(),
    labels,
    items,
  );
  paths.reverse();
  const group = choice(picture, items, t("zoom.parts"), (i) => onChoose(parts[i]));
  const show = (part, norms) => {
    group.show(parts.indexOf(part));
    const most = Math.max(...Object.values(norms).map((norm) => norm ?? 0)) || 1;
    Object.keys(lines).forEach((name, i) => {
      paths[i].setAttribute("stroke-width", String(Math.max(1.5, (WIDEST * (norms[name] ?? 0)) / most)));
      labels[i].textContent = `${name.endsWith("out") ? "+ " : ""}${figure(norms[name], 2)}`;
    });
  };
  return { node: picture, show };
}

/** A part: a box with its name, or the circle of a sum. */
function box(part, [x, y, width, height]) {
  const isSum = width === undefined;
  const name = t(NAMES[part]);
  const shape = isSum ? svg("circle", { cx: x, cy: y, r: 22 }) : svg("rect", { x, y, width, height, rx: 9 });
  const at = isSum ? { x, y } : { x: x + width / 2, y: y + height / 2 };
  const text = svg("text", { ...at, dy: ".35em", "text-anchor": "middle" }, isSum ? "+" : name);
  return svg("g", { class: isSum ? "zoom-part zoom-sum" : "zoom-part", "data-part-name": part, "aria-label": name }, shape, text);
}
