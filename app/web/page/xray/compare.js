/** The run as it is beside the run with the switches: loss, continuation, next tokens. Knows both runs, asks nothing. */

import { clear, el } from "../dom.js";
import { t } from "../i18n.js";
import { percent, shown, signed } from "./numbers.js";

const BARS = 5;

/** @param {(run: "run" | "ablated") => void} onRun which run the picture and the tables show */
export function makeCompare(onRun) {
  const columns = el("div", { class: "compare" });
  const buttons = [
    ["run", t("xray.compare.before")],
    ["ablated", t("xray.compare.after")],
  ].map(([run, name]) => el("button", { type: "button", "data-run": run, onclick: () => onRun(run) }, name));
  const choice = el(
    "div",
    { class: "row", role: "group", "aria-label": t("xray.compare.shown") },
    el("span", { class: "hint" }, t("xray.compare.shown")),
    buttons,
  );
  const node = el("div", null, columns, choice);
  const texts = {}; // those that were shown last, by column: they stand, dimmed, until the new ones are there
  const fill = ({ answer, isWhole }, run) => {
    clear(columns).append(...columnsOf(answer, (name, known) => (isWhole ? (texts[name] = known) : texts[name])));
    for (const text of columns.querySelectorAll(".text")) text.setAttribute("aria-busy", String(!isWhole));
    choice.hidden = !answer.ablated;
    buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.run === run)));
  };
  return { node, fill };
}

/** @param {(name: string, known: string) => string | undefined} textOf what is shown of a column's continuation */
function columnsOf({ run, ablated }, textOf) {
  const unit = 100 / Math.max(run.next[0].probability, ablated?.next[0].probability ?? 0); // one scale for both
  const before = column(t("xray.compare.before"), run, null, "before", unit, textOf);
  return ablated ? [before, column(t("xray.compare.after"), ablated, run, "after", unit, textOf)] : [before];
}

function column(title, run, other, name, unit, textOf) {
  const loss = run.loss === null ? "–" : run.loss.toFixed(3);
  const change =
    other && run.loss !== null
      ? el("span", { class: run.loss > other.loss ? "worse" : "better" }, ` ${signed(run.loss - other.loss, 3)}`)
      : null;
  return el(
    "section",
    { class: "card", "data-column": name },
    el("h3", null, title),
    el("p", { class: "loss" }, t("xray.compare.loss"), " ", el("strong", null, loss), change),
    el("p", { class: "text" }, textOf(name, run.continuation?.text ?? t("xray.compare.no_room")) ?? "…"),
    el(
      "table",
      { class: "chances small" },
      el("caption", { class: "visually-hidden" }, t("xray.chances.before")),
      el(
        "colgroup",
        null,
        ["words", "bars", "count"].map((name) => el("col", { class: name })),
      ),
      el(
        "tbody",
        null,
        run.next.slice(0, BARS).map((one) => bar(one, unit)),
      ),
    ),
  );
}

function bar({ text, probability }, unit) {
  const drawn = el("span", { class: "bar", style: { "--width": `${(unit * probability).toFixed(1)}%`, "--before": "0%" } });
  return el(
    "tr",
    null,
    el("th", { scope: "row" }, shown(text)),
    el("td", { class: "bars" }, drawn),
    el("td", { class: "number" }, percent(probability)),
  );
}
