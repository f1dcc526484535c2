/** The picture's numbers in words and as a table: what a screen reader reads in its place, and anybody who wants them exact. */

import { clear, el } from "../dom.js";
import { t } from "../i18n.js";
import { expectedAfterLast, percent, plain, shown, signed, streamAt } from "./numbers.js";
import { write } from "./write.js";

export function makeReading() {
  const sentence = el("p", { class: "reading", id: "xray-reading" });
  const body = el("tbody");
  const table = el(
    "table",
    { class: "numbers" },
    el("caption", { class: "visually-hidden" }, t("xray.reading.caption")),
    el("thead", null, heading()),
    body,
  );
  const scroller = el("div", { class: "scroller", tabIndex: 0, role: "group", "aria-label": t("xray.reading.title") }, table);
  const fold = el("details", { class: "fold" }, el("summary", null, t("xray.reading.title")), scroller);
  const parts = { sentence, body, fold, view: null };
  fold.addEventListener("toggle", () => parts.view && fillRows(parts));
  return { sentence, fold, fill: (answer, run) => fill(parts, answer, run), update: (view) => update(parts, view) };
}

function heading() {
  const names = [
    t("xray.reading.block"),
    "LN1 μ",
    "LN1 σ",
    t("xray.reading.attention"),
    "cos",
    t("xray.reading.stream"),
    "LN2 μ",
    "LN2 σ",
    t("xray.reading.mlp"),
    "cos",
    t("xray.reading.stream"),
    t("xray.reading.lens"),
    "p",
    t("xray.reading.rank"),
    t("xray.reading.entropy"),
  ];
  return el(
    "tr",
    null,
    names.map((name) => el("th", { scope: "col" }, name)),
  );
}

function fill(parts, answer, run) {
  Object.assign(parts, { run, expected: expectedAfterLast(answer) });
  const rows = run.summaries.norms.resid_post.map((_, layer) =>
    el(
      "tr",
      null,
      el("th", { scope: "row" }, layer),
      Array.from({ length: 14 }, (_, i) => el("td", { class: i === 10 ? null : "number" }, "")),
    ),
  );
  clear(parts.body).append(...rows);
}

function update(parts, view) {
  parts.view = view;
  write(parts.sentence, sentenceOf(parts, view));
  if (parts.fold.open) fillRows(parts);
}

function sentenceOf({ run, expected }, { layer, position, tokens }) {
  const stream = streamAt(run, position),
    { lens } = run.summaries;
  const best = lens.top[layer + 1][position][0];
  const rank = lens.rank[layer + 1][position] + 1;
  const words = t("xray.reading.sentence", {
    block: layer,
    token: shown(tokens[position].text),
    position,
    before: stream.points[2 * layer].toFixed(1),
    attention: stream.attention[layer].toFixed(1),
    mlp: stream.mlp[layer].toFixed(1),
    after: stream.points[2 * layer + 2].toFixed(1),
    best: shown(best.text),
    probability: percent(best.probability),
  });
  const isLast = position === tokens.length - 1; // nothing came there
  const rankWords = isLast
    ? t("xray.reading.rank_explained", { token: shown(expected.text), rank })
    : t("xray.reading.rank_came", { rank });
  return `${words}${rankWords}`;
}

function fillRows({ body, run, view: { position } }) {
  const stream = streamAt(run, position),
    { layer_norm: norms, lens } = run.summaries;
  [...body.rows].forEach((row, layer) => {
    const best = lens.top[layer + 1][position][0];
    const figures = [
      plain(norms.ln1.mean[layer][position], 3),
      norms.ln1.deviation[layer][position].toFixed(3),
      stream.attention[layer].toFixed(2),
      signed(stream.attentionCosine[layer]),
      stream.points[2 * layer + 1].toFixed(2),
      plain(norms.ln2.mean[layer][position], 3),
      norms.ln2.deviation[layer][position].toFixed(3),
      stream.mlp[layer].toFixed(2),
      signed(stream.mlpCosine[layer]),
      stream.points[2 * layer + 2].toFixed(2),
      shown(best.text),
      percent(best.probability),
      lens.rank[layer + 1][position] + 1,
      lens.entropy[layer + 1][position].toFixed(2),
    ];
    figures.forEach((figure, i) => write(row.cells[i + 1], String(figure)));
  });
}
