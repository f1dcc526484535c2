/** The logit lens as a table: what each layer would say next at each position, shaded by how sure it is. Readable as it stands. */

import { clear, el } from "../dom.js";
import { t } from "../i18n.js";
import { brief, expectedAfterLast, percent, shown } from "./numbers.js";

/** @param {(choice: {layer?: number, position?: number}) => void} onSelect */
export function makeLens(onSelect) {
  const table = el("table", { class: "lens" });
  const choose = (event) => {
    const cell = event.target.closest("td");
    if (cell) onSelect({ layer: Math.max(0, Number(cell.dataset.row) - 1), position: Number(cell.dataset.position) });
  };
  table.addEventListener("pointerover", (event) => event.pointerType === "mouse" && choose(event));
  table.addEventListener("click", choose);
  const parts = { table, cell: null, heading: null };
  const scroller = el("div", { class: "scroller", tabIndex: 0, role: "group", "aria-label": t("xray.lens.title") }, table);
  return { node: scroller, fill: (answer, run) => fill(parts, answer, run), update: (view) => update(parts, view) };
}

/** The last layer stands on top, as in the papers that draw it: the text below, what becomes of it above. */
function fill(parts, answer, run) {
  const { tokens } = answer,
    expected = expectedAfterLast(answer);
  const { top, rank } = run.summaries.lens;
  const rows = top
    .map((row, i) =>
      el(
        "tr",
        null,
        el("th", { scope: "row" }, i === 0 ? t("xray.lens.embedding") : i - 1),
        row.map((best, position) => cell(best, rank[i][position], i, position, position === tokens.length - 1 ? expected : null)),
      ),
    )
    .reverse();
  const came = el(
    "tr",
    { class: "came" },
    el("th", { scope: "row" }, t("xray.lens.token")),
    tokens.map((token) => el("th", { scope: "col" }, brief(token.text, 12))),
  );
  clear(parts.table).append(
    el("caption", { class: "visually-hidden" }, t("xray.lens.caption")),
    el("thead", null, came),
    el("tbody", null, rows),
  );
  parts.cell = parts.heading = null;
}

/** `expected`: the token whose rank it is where none came. */
function cell(best, rank, row, position, expected) {
  const { text, probability } = best[0];
  const alternatives = best
    .slice(0, 5)
    .map((one) => `${shown(one.text)} ${percent(one.probability)}`)
    .join("\n");
  const told = expected
    ? t("xray.lens.rank_explained", { token: shown(expected.text), rank: rank + 1 })
    : t("xray.lens.rank", { rank: rank + 1 });
  return el(
    "td",
    {
      class: rank === 0 && !expected ? "hit" : null,
      "data-row": row,
      "data-position": position,
      style: { "--share": `${Math.round(probability * 100)}%` },
      title: `${alternatives}\n${told}`,
    },
    brief(text, 10),
    el("small", null, percent(probability)),
  );
}

function update(parts, { layer, position }) {
  const { rows } = parts.table;
  if (!rows.length) return;
  parts.cell?.classList.remove("chosen");
  parts.heading?.classList.remove("chosen");
  parts.cell = rows[rows.length - 2 - layer]?.cells[position + 1];
  parts.heading = rows[0].cells[position + 1];
  parts.cell?.classList.add("chosen");
  parts.heading?.classList.add("chosen");
}
