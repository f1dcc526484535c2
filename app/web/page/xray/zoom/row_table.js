/**
 * One query's row of a head as a table: each key's product, score and weight, and a bar of the column that is spoken of.
 *
 * Each of its rows is a grid of fixed tracks that is laid out by itself, and not at all where it is out of sight: a table's own
 * layout would look at every cell in every frame. The roles say that it is a table still.
 */

import { el } from "../../dom.js";
import { t } from "../../i18n.js";
import { keepInView } from "./choice.js";
import { figure, magnitude, weightFigure } from "./numbers.js";
import { label, place } from "./tokens.js";

/**
 * @param {{text: string}[]} tokens
 * @param {(key: number) => void} onChoose
 */
export function rowTable(tokens, onChoose) {
  const rows = tokens.map((token, key) => tableRow(token, key, () => onChoose(key)));
  const names = ["zoom.key", "zoom.product", "zoom.scaled", "zoom.masked_score", "zoom.weight"].map((key) =>
    el("th", { scope: "col", role: "columnheader" }, t(key)),
  );
  const title = el("caption");
  const body = el(
    "tbody",
    { role: "rowgroup" },
    rows.map((row) => row.node),
  );
  const table = el(
    "table",
    { class: "zoom-row", role: "table" },
    title,
    el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, names, el("td", { "aria-hidden": "true" }))),
    body,
  );
  const node = el("div", { class: "zoom-scroll zoom-row-box", tabIndex: 0, role: "region", "aria-label": t("zoom.row") }, table);
  let shown = { head: null, query: -1, key: -1, column: -1 };
  const show = (head, query, key, column) => {
    if (query !== shown.query) title.textContent = t("zoom.row_of", { query: place(tokens, query) });
    if (head !== shown.head || query !== shown.query || column !== shown.column) fill(rows, head, query, column);
    table.dataset.column = String(column);
    rows[shown.key]?.node.classList.remove("zoom-chosen");
    rows[key].node.classList.add("zoom-chosen");
    if (key !== shown.key) keepInView(node, rows[key].node);
    shown = { head, query, key, column };
  };
  return { node, show };
}

function tableRow(token, key, onclick) {
  const cells = [0, 1, 2, 3].map(() => el("td", { role: "cell" }, ""));
  const bar = el("i");
  const name = el("th", { scope: "row", role: "rowheader" }, el("span", { class: "zoom-index" }, key), label(token.text));
  const node = el("tr", { role: "row", onclick }, name, cells, el("td", { class: "zoom-bar", "aria-hidden": "true" }, bar));
  return { node, texts: cells.map((cell) => cell.firstChild), bar };
}

/** Write a query's figures into the cells that are there. @param {number} column the one whose values the bars show */
function fill(rows, head, query, column) {
  const scores = head.scores(query);
  const weights = head.weights(query);
  const figures = rows.map((_, key) => {
    const product = head.product(query, key);
    return [product, product / Math.sqrt(head.width), scores[key], weights[key]];
  });
  const values = figures.map((figuresOfKey) => figuresOfKey[column]);
  const scale = magnitude(values.filter(Number.isFinite)) || 1;
  rows.forEach((row, key) => {
    figures[key].forEach((value, i) => write(row.texts[i], i === 3 ? weightFigure(value) : figure(value)));
    row.node.classList.toggle("zoom-out", scores[key] === -Infinity);
    const value = Number.isFinite(values[key]) ? values[key] / scale : 0;
    row.bar.style.setProperty("transform", column === 3 ? `scaleX(${value})` : `translateX(50%) scaleX(${value / 2})`);
  });
}

/** Only what is another text costs a layout. @param {Text} node @param {string} text */
function write(node, text) {
  if (node.nodeValue !== text) node.nodeValue = text;
}
