/**
 * The lower half of the flow: the residual stream of the chosen position as a river, the branches that attention and MLP add to it,
 * and the LayerNorm at each entry. Built once a layout; a move of the choice changes attributes alone.
 */

import { svg } from "../dom.js";
import { HALF, blockX, joins } from "./geometry.js";
import { band, branch, gate, river } from "./shapes.js";

const SOURCE = 108; // where embedding and position come from
const CONFLUENCE = 178;

/** @param {import("./geometry.js").Layout} at */
export function makeChannel(at) {
  const parts = {
    at,
    stream: svg("path", { class: "stream", "data-name": "stream" }),
    other: svg("path", { class: "other" }),
    embed: svg("path", { class: "embed" }),
    positional: svg("path", { class: "positional" }),
    blocks: Array.from({ length: at.layers }, (_, layer) => makeBlock(at, layer)),
  };
  const last = svg("path", { class: "gate", d: gate(at.end + 16, at.river) });
  const node = svg(
    "g",
    { class: "channel", "aria-hidden": "true" },
    parts.embed,
    parts.positional,
    parts.stream,
    parts.blocks.map((block) => block.node),
    last,
    parts.other,
  );
  return { node, update: (stream, scale, other) => update(parts, stream, scale, other) };
}

function makeBlock(at, layer) {
  const x = blockX(at, layer);
  const parts = {
    x,
    attention: svg("path", { class: "attention" }),
    mlp: svg("path", { class: "mlp" }),
    entry1: svg("path", { class: "entry" }),
    entry2: svg("path", { class: "entry" }),
    box1: svg("rect", { class: "attention-box", x: x.attention - 5, width: 10, rx: 2 }),
    box2: svg("rect", { class: "mlp-box", x: x.mlp - 5, width: 10, rx: 2 }),
  };
  const gates = [
    svg("path", { class: "gate", d: gate(x.gate1, at.above) }),
    svg("path", { class: "gate", d: gate(x.gate2, at.below) }),
  ];
  const node = svg("g", null, parts.entry1, parts.entry2, parts.attention, parts.mlp, parts.box1, parts.box2, gates);
  return { ...parts, node };
}

/**
 * @param {{points: number[], attention: number[], mlp: number[]}} stream of the chosen position
 * @param {number} scale the norm that fills the river's full width
 * @param {{points: number[]} | null} other the same stream of the other run, drawn as an outline
 */
function update(parts, stream, scale, other) {
  const { at } = parts;
  const half = (norm) => Math.max(0.6, Math.min(1.15, norm / scale) * HALF);
  const course = (points) => river(joins(at), points.map(half), CONFLUENCE, at.end + 10, at.river, Math.min(9, at.step / 8));
  parts.stream.setAttribute("d", course(stream.points));
  parts.other.setAttribute("d", other ? course(other.points) : "");
  const source = half(stream.points[0]);
  parts.embed.setAttribute("d", band(SOURCE, at.above + 34, CONFLUENCE + 1, at.river - source / 2, 2 * half(stream.embed)));
  parts.positional.setAttribute(
    "d",
    band(SOURCE, at.below - 34, CONFLUENCE + 1, at.river + source / 2, 2 * half(stream.positional)),
  );
  parts.blocks.forEach((block, layer) => updateBlock(at, block, layer, stream, half));
}

function updateBlock(at, block, layer, stream, half) {
  const { x } = block;
  const [pre, mid, post] = [0, 1, 2].map((i) => half(stream.points[2 * layer + i]));
  const [attention, mlp] = [half(stream.attention[layer]), half(stream.mlp[layer])];
  block.entry1.setAttribute("d", branch(x.fork1, at.river - pre, x.attention, at.above));
  block.entry2.setAttribute("d", branch(x.fork2, at.river + mid, x.mlp, at.below));
  block.attention.setAttribute("d", band(x.attention, at.above, x.join1, at.river - mid + attention, 2 * attention));
  block.mlp.setAttribute("d", band(x.mlp, at.below, x.join2, at.river + post - mlp, 2 * mlp));
  setBox(block.box1, at.above, attention);
  setBox(block.box2, at.below, mlp);
}

function setBox(box, middle, half) {
  const height = Math.max(9, half + 3);
  box.setAttribute("y", (middle - height).toFixed(1));
  box.setAttribute("height", (2 * height).toFixed(1));
}
