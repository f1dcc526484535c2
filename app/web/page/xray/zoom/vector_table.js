/** The numbers of vectors that are drawn as strips, as a table that is folded away: for a closer look, and for a screen reader. */

import { el } from "../../dom.js";
import { t } from "../../i18n.js";
import { figure } from "./numbers.js";

/**
 * @param {number} size how many numbers each has
 * @param {number} count how many vectors
 * @returns {{ node: HTMLElement, show: (names: string[], vectors: ArrayLike<number>[]) => void }}
 */
export function vectorTable(size, count) {
  const node = el("details", { ontoggle: () => node.open && fill() }, el("summary", null, t("zoom.numbers")));
  let table = null;
  let shown = null;
  const fill = () => {
    table ??= makeTable(node, size, count);
    const [names, vectors] = shown;
    table.heads.forEach((head, i) => (head.textContent = names[i] ?? ""));
    table.rows.forEach((row, feature) =>
      row.forEach((cell, i) => (cell.textContent = vectors[i] ? figure(vectors[i][feature]) : "")),
    );
  };
  const show = (names, vectors) => {
    shown = [names, vectors];
    if (node.open) fill();
  };
  return { node, show };
}

/** Made when it is first opened. */
function makeTable(node, size, count) {
  const heads = Array.from({ length: count }, () => el("th", { scope: "col" }));
  const rows = Array.from({ length: size }, () => heads.map(() => el("td")));
  const body = rows.map((row, feature) => el("tr", null, el("th", { scope: "row" }, feature), row));
  const head = el("tr", null, el("th", { scope: "col" }, t("zoom.feature")), heads);
  const table = el("table", { class: "zoom-vectors" }, el("thead", null, head), el("tbody", null, body));
  node.append(el("div", { class: "zoom-scroll", tabIndex: 0, role: "region", "aria-label": t("zoom.numbers") }, table));
  return { heads, rows };
}
