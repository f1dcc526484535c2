/** What stands around and on a head's large map: the tokens along its sides, and the cross of the chosen pair. */

import { svg } from "../../dom.js";
import { label } from "./tokens.js";

export const AXIS = 92; // room for the tokens' names
const LABEL = 11; // the least height of one

/** Tokens along an axis; where cells are lower than a line of text, every few tokens. @param {{text: string}[]} tokens */
export function axis(tokens, cell, isAcross) {
  const every = Math.ceil(LABEL / cell);
  const length = tokens.length * cell;
  const names = tokens.map((token, i) => {
    const at = Math.max((i + 0.5) * cell, LABEL / 2);
    const place = isAcross
      ? { transform: `translate(${at} ${AXIS - 6}) rotate(-90)` }
      : { transform: `translate(${AXIS - 6} ${at})`, "text-anchor": "end" };
    return svg("text", { ...place, dy: ".35em", class: i % every ? "zoom-skipped" : null }, label(token.text, 12));
  });
  const box = isAcross ? { width: length, height: AXIS } : { width: AXIS, height: length };
  return {
    node: svg("svg", { ...box, class: `zoom-axis-names ${isAcross ? "zoom-names-above" : "zoom-names-beside"}`, "aria-hidden": "true" }, names),
    names,
  };
}

/** Let another of the names be the chosen one. @param {SVGElement[]} names @param {number} before @param {number} now */
export function mark(names, before, now) {
  names[before]?.classList.remove("zoom-chosen");
  names[now]?.classList.add("zoom-chosen");
}

/** The row, the column and the cell that are chosen, as three rectangles that move. */
export function crosshair(side, cell) {
  const across = svg("rect", { class: "zoom-line", x: 0, width: side, height: cell });
  const down = svg("rect", { class: "zoom-line", y: 0, width: cell, height: side });
  const pair = svg("rect", { class: "zoom-cell", width: cell, height: cell });
  const node = svg("svg", { class: "zoom-cross", width: side, height: side, "aria-hidden": "true" }, across, down, pair);
  const show = (query, key) => {
    across.setAttribute("y", query * cell);
    down.setAttribute("x", key * cell);
    pair.setAttribute("x", key * cell);
    pair.setAttribute("y", query * cell);
  };
  return { node, show };
}
