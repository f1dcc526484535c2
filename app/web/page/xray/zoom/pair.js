/** The large map of one head: a query's row, a key's column, the pair where they cross; by pointer, by arrow keys, or from two lists. */

import { el } from "../../dom.js";
import { t } from "../../i18n.js";
import { AXIS, axis, crosshair, mark } from "./axes.js";
import { headPicture } from "./head_picture.js";
import { paint } from "./map.js";

const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

/** The side of a pair's cell: as large as the room allows, on a phone too, and large enough to be pointed at. @param {number} size */
const cellOf = (size) => Math.max(6, Math.min(34, Math.floor(Math.min(430, innerWidth - 160) / size)));

/**
 * @param {{text: string}[]} tokens
 * @param {import("./activations.js").Activations} block
 * @param {number} layer
 * @param {{onChoose: (query: number, key: number) => void, onHover: (query: number, key: number) => void, onLeave: () => void}} on
 */
export function pairMap(tokens, block, layer, on) {
  const size = tokens.length;
  const cell = cellOf(size);
  const side = size * cell;
  const canvas = el("canvas", { class: "zoom-map", style: { width: `${side}px`, height: `${side}px` }, "aria-hidden": "true" });
  const cross = crosshair(side, cell);
  const top = axis(tokens, cell, true);
  const left = axis(tokens, cell, false);
  const plane = el("div", { class: "zoom-plane zoom-masked" }, canvas, cross.node);
  const grid = el("div", { class: "zoom-grid" }, el("div", { class: "zoom-corner" }), top.node, left.node, plane);
  const node = el("div", { class: "zoom-pairs", role: "application", tabIndex: 0, "aria-describedby": "zoom-pair" }, grid);
  let shown = [-1, -1];
  let painted = -1;
  const picture = headPicture(tokens, layer);
  const repaint = () => {
    paint(canvas, block.hook_pattern.under(painted), block.hook_attn_scores.under(painted), size);
    picture.paint(painted, canvas);
  };
  const show = (head, query, key) => {
    if (head !== painted) {
      painted = head;
      node.setAttribute("aria-label", t("zoom.map", { head }));
      repaint();
    }
    mark(left.names, shown[0], query);
    mark(top.names, shown[1], key);
    cross.show(query, key);
    picture.show(query, key);
    shown = [query, key];
  };
  listenToPointer(plane, size, cell, on);
  listenToKeys(
    node,
    size,
    () => shown,
    (query, key) => {
      on.onChoose(query, key);
      reveal(node, cell, shown);
    },
  );
  return { node, picture: picture.node, show, repaint };
}

/** What a mouse is over is shown as long as it stays there; a click or a tap chooses it. */
function listenToPointer(plane, size, cell, { onChoose, onHover, onLeave }) {
  const pair = (event) => {
    const box = plane.getBoundingClientRect();
    return [event.clientY - box.top, event.clientX - box.left].map((at) => Math.min(size - 1, Math.max(0, Math.floor(at / cell))));
  };
  plane.onpointermove = (event) => event.pointerType === "mouse" && onHover(...pair(event));
  plane.onpointerleave = onLeave;
  plane.onclick = (event) => onChoose(...pair(event));
}

/** Arrows choose the neighbour. */
function listenToKeys(node, size, at, onChoose) {
  const within = (index) => Math.min(size - 1, Math.max(0, index));
  node.onkeydown = (event) => {
    const step = ARROWS[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    onChoose(within(at()[0] + step[0]), within(at()[1] + step[1]));
  };
}

/** Scroll the map's own box until the pair is seen. */
function reveal(box, cell, [query, key]) {
  const nearest = (start, room, at) => (at < start ? at : at + cell > start + room ? at + cell - room : start);
  box.scrollTop = nearest(box.scrollTop, box.clientHeight - AXIS, query * cell);
  box.scrollLeft = nearest(box.scrollLeft, box.clientWidth - AXIS, key * cell);
}
