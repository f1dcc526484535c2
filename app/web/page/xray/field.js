/**
 * The upper half of the flow: a row for every position, as wide as its stream's norm, and what the chosen position reads from the
 * others in each block. Built once an answer; a move of the choice changes attributes alone.
 */

import { svg } from "../dom.js";
import { blockX, joins, rowY } from "./geometry.js";
import { brief, streamAt } from "./numbers.js";
import { band, river } from "./shapes.js";
import { write } from "./write.js";

const LABELS_END = 92;
const LABEL_FROM = 8.5; // a row's height from which its token can be read
const LEAST_WEIGHT = 0.01; // of attention that is drawn

/** @param {import("./geometry.js").Layout} at */
export function makeField(at, tokens, run, scale) {
  const parts = {
    at,
    tokens,
    rowPath: (position) => rowPath(at, run, scale, position),
    labels: tokens.map((token, position) => label(at, token, position)),
    ground: svg("rect", { class: "row-chosen", x: 0, width: at.end + 8, height: Math.max(at.row, 2) }),
    row: svg("path", { class: "stream" }),
    chosenLabel: svg("text", { class: "word here", x: LABELS_END, "text-anchor": "end" }, ""),
    reads: Array.from({ length: at.layers }, () => svg("path", { class: "reads" })),
  };
  const rows = svg("path", { class: "rows", d: tokens.map((_, position) => parts.rowPath(position)).join("") });
  const labels = svg(
    "g",
    { "font-size": fontSize(at).toFixed(1), visibility: isReadable(at) ? "visible" : "hidden" },
    parts.labels,
  );
  const chosenLabel = svg("g", { "font-size": 12.5, visibility: isReadable(at) ? "hidden" : "visible" }, parts.chosenLabel);
  const node = svg("g", { "aria-hidden": "true" }, parts.ground, rows, parts.row, parts.reads, labels, chosenLabel);
  return { node, update: (view) => update(parts, view) };
}

const fontSize = (at) => Math.min(12.5, at.row * 0.9);
const isReadable = (at) => at.row >= LABEL_FROM; // or the chosen row alone has its token beside it

function label(at, token, position) {
  return svg(
    "text",
    { class: "word", x: LABELS_END, y: (rowY(at, position) + fontSize(at) * 0.34).toFixed(1), "text-anchor": "end" },
    brief(token.text, 12),
  );
}

/** A position's own small river. */
function rowPath(at, run, scale, position) {
  const halves = streamAt(run, position).points.map((norm) => Math.min(1, norm / scale) * at.row * 0.42);
  return river(joins(at), halves, LABELS_END + 12, at.end + 8, rowY(at, position), Math.min(8, at.step / 9));
}

function update(parts, { position, patterns }) {
  const { at } = parts;
  parts.ground.setAttribute("y", (rowY(at, position) - Math.max(at.row, 2) / 2).toFixed(1));
  parts.row.setAttribute("d", parts.rowPath(position));
  parts.chosenLabel.setAttribute("y", (rowY(at, position) + 4).toFixed(1));
  write(parts.chosenLabel, brief(parts.tokens[position].text, 12));
  parts.labels[parts.position]?.classList.remove("here");
  parts.labels[position].classList.add("here");
  parts.position = position;
  parts.reads.forEach((path, layer) =>
    path.setAttribute("d", patterns ? readsPath(at, layer, position, patterns[layer][position]) : ""),
  );
}

/** From every position that is read in a layer to the one that reads, as thick as the mean weight of the heads. */
function readsPath(at, layer, position, weights) {
  const { start, end } = blockX(at, layer);
  const from = start + 0.06 * at.step,
    to = end - 0.06 * at.step;
  const parts = [];
  for (let key = 0; key <= position; key++) {
    if (weights[key] >= LEAST_WEIGHT) parts.push(band(from, rowY(at, key), to, rowY(at, position), weights[key] * at.row));
  }
  return parts.join("");
}
