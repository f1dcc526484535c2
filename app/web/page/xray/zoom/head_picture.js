/** One head's large map as one SVG, to be saved: on the page it is a canvas with names around it, so that it scrolls and is quick. */

import { svg } from "../../dom.js";
import { t } from "../../i18n.js";
import { AXIS, axis, crosshair, mark } from "./axes.js";

const TITLE = 30; // height of the line above the map
const EDGE = 16; // free on all sides

/** @param {number} size the side of a pair's cell */
const cellOf = (size) => Math.max(4, Math.min(24, Math.floor(900 / size)));

/**
 * @param {{text: string}[]} tokens
 * @param {number} layer
 * @returns {{ node: SVGSVGElement, paint: (head: number, canvas: HTMLCanvasElement) => void, show: (query: number, key: number) => void }}
 */
export function headPicture(tokens, layer) {
  const cell = cellOf(tokens.length);
  const side = tokens.length * cell;
  const [top, left, cross] = [axis(tokens, cell, true), axis(tokens, cell, false), crosshair(side, cell)];
  const title = svg("text", { x: EDGE, y: EDGE + 14, class: "zoom-picture-title" });
  const image = svg("image", { width: side, height: side, "image-rendering": "pixelated", preserveAspectRatio: "none" });
  const ground = svg("rect", { width: side, height: side, fill: "url(#zoom-hatch)" });
  const [x, y] = [EDGE + AXIS, EDGE + TITLE + AXIS];
  put(top.node, x, y - AXIS);
  put(left.node, x - AXIS, y);
  const map = svg("g", { transform: `translate(${x} ${y})` }, ground, image, cross.node);
  const box = { viewBox: `0 0 ${x + side + EDGE} ${y + side + EDGE}`, class: "zoom-picture", "aria-hidden": "true" };
  const node = svg("svg", box, hatching(), title, top.node, left.node, map);
  const paint = (head, canvas) => {
    title.textContent = t("zoom.picture", { block: layer, head });
    image.setAttribute("href", canvas.toDataURL());
  };
  let shown = [-1, -1];
  const show = (query, key) => {
    mark(left.names, shown[0], query);
    mark(top.names, shown[1], key);
    cross.show(query, key);
    shown = [query, key];
  };
  return { node, paint, show };
}

/** @param {SVGElement} node of a picture inside of the picture */
function put(node, x, y) {
  node.setAttribute("x", String(x));
  node.setAttribute("y", String(y));
}

/** What the mask took out, as on the page. */
function hatching() {
  const line = svg("path", { d: "M-1 5L5 -1M-1 1L1 -1M3 5L5 3", class: "zoom-hatch" });
  return svg("defs", null, svg("pattern", { id: "zoom-hatch", width: 4, height: 4, patternUnits: "userSpaceOnUse" }, line));
}
