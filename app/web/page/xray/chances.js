/** What may come next at the chosen position: twenty bars, and what temperature and top-k make of them. Asks nothing. */

import { el } from "../dom.js";
import { t } from "../i18n.js";
import { adjusted, percent, shown } from "./numbers.js";
import { write } from "./write.js";

const BARS = 20;
// The slider's last place: nothing is dropped. That goes with temperature 1 alone, as only these 20 are known.
const OFF = BARS + 1;

/** @param {(choice: {temperature?: number, topK?: number}) => void} onChange */
export function makeChances(onChange) {
  const temperature = slider("xray-temperature", t("xray.chances.temperature"), { min: 0, max: 2, step: 0.05 }, (value) =>
    onChange(value === 1 ? { temperature: 1 } : { temperature: value, topK: Math.min(BARS, Number(topK.input.value)) }),
  );
  const topK = slider("xray-top-k", t("xray.chances.top_k"), { min: 1, max: OFF, step: 1 }, (value) =>
    onChange(value === OFF ? { topK: OFF, temperature: 1 } : { topK: value }),
  );
  const heading = el("p", { class: "reading" });
  const rows = Array.from({ length: BARS }, () => {
    const parts = {
      token: el("th", { scope: "row" }),
      bar: el("span", { class: "bar" }),
      now: el("td", { class: "number" }),
      before: el("td", { class: "number soft" }),
    };
    return { ...parts, node: el("tr", null, parts.token, el("td", { class: "bars" }, parts.bar), parts.now, parts.before) };
  });
  const head = [t("xray.chances.token"), "", t("xray.chances.now"), t("xray.chances.before")].map((name) =>
    name ? el("th", { scope: "col" }, name) : el("td"),
  );
  const table = el(
    "table",
    { class: "chances" },
    el("caption", { class: "visually-hidden" }, t("xray.chances.caption")),
    columns(),
    el("thead", null, el("tr", null, head)),
    el(
      "tbody",
      null,
      rows.map((row) => row.node),
    ),
  );
  const node = el(
    "div",
    null,
    el("div", { class: "slider-row" }, temperature.node, topK.node),
    heading,
    el("div", { class: "scroller" }, table),
  );
  return { node, update: (view, run) => update({ temperature, topK, heading, rows }, view, run) };
}

const columns = () =>
  el(
    "colgroup",
    null,
    ["words", "bars", "count", "count"].map((name) => el("col", { class: name })),
  );

export function slider(id, name, limits, onInput) {
  const input = el("input", { type: "range", id, ...limits });
  const shownValue = el("output", { htmlFor: id });
  input.oninput = () => onInput(Number(input.value));
  const set = (value, words = String(value)) => {
    if (input.value !== String(value)) input.value = String(value);
    write(shownValue, words);
    input.setAttribute("aria-valuetext", words);
  };
  return { input, set, node: el("label", { for: id }, el("span", { class: "slider-name" }, name, " ", shownValue), input) };
}

function update({ temperature, topK, heading, rows }, view, run) {
  temperature.set(view.temperature, view.temperature.toFixed(2));
  topK.set(view.topK, view.topK === OFF ? t("xray.chances.off") : String(view.topK));
  const known = run.summaries.lens.top.at(-1)[view.position];
  const chances = adjusted(known, view.temperature, view.topK);
  const unit = 100 / Math.max(chances[0], known[0].probability); // the longest bar fills its place; the numbers say how likely
  write(heading, t("xray.chances.after", { token: shown(view.tokens[view.position].text), position: view.position }));
  rows.forEach((row, i) => {
    row.node.hidden = i >= known.length;
    if (row.node.hidden) return;
    write(row.token, shown(known[i].text));
    row.bar.style.setProperty("--width", `${(unit * chances[i]).toFixed(1)}%`);
    row.bar.style.setProperty("--before", `${(unit * known[i].probability).toFixed(1)}%`);
    write(row.now, percent(chances[i]));
    write(row.before, percent(known[i].probability));
  });
}
