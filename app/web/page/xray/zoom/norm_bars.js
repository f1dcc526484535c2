/** Norms as bars beneath each other on one scale. */

import { el } from "../../dom.js";
import { t } from "../../i18n.js";
import { figure } from "./numbers.js";

/**
 * @param {string[]} keys of the texts that name them
 * @returns {{node: HTMLElement, show: (values: (number | null)[]) => void}} null: not known
 */
export function normBars(keys) {
  const rows = keys.map((key) => {
    const bar = el("i");
    const value = el("dd");
    return { node: [el("dt", null, t(key)), value, el("dd", { class: "zoom-bar", "aria-hidden": "true" }, bar)], bar, value };
  });
  const show = (values) => {
    const most = Math.max(1e-9, ...values.map((value) => value ?? 0));
    rows.forEach(({ bar, value }, i) => {
      value.textContent = figure(values[i]);
      bar.style.setProperty("transform", `scaleX(${(values[i] ?? 0) / most})`);
    });
  };
  return {
    node: el(
      "dl",
      { class: "zoom-norms" },
      rows.map((row) => row.node),
    ),
    show,
  };
}
