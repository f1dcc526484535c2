/** The switches that are on, each with its way off. Stands above every level, and also where no answer came. */

import { clear, el } from "../dom.js";
import { t } from "../i18n.js";
import { toggled, words } from "./ablations.js";

/** @param {(ablations: object[]) => void} onChange */
export function makeChips(onChange) {
  const list = el("ul", { class: "chips", "aria-label": t("xray.switches.active"), hidden: true });
  return { node: list, fill: (ablations) => fill(list, ablations, onChange) };
}

function fill(list, ablations, onChange) {
  const hadFocus = list.contains(document.activeElement);
  const chips = ablations.map((one) => chip(words(one), `${words(one)} ×`, () => onChange(toggled(ablations, one))));
  const all = ablations.length > 1 ? [chip(null, t("xray.switches.none"), () => onChange([]))] : [];
  clear(list).append(...chips, ...all);
  list.hidden = !ablations.length;
  if (hadFocus) (list.querySelector("button") ?? document.querySelector(".xray .common button"))?.focus();
}

function chip(name, shown, onclick) {
  const label = name && { "aria-label": `${shown} ${t("xray.switches.remove")}` };
  return el("li", null, el("button", { type: "button", class: name ? "chip" : "chip quiet", onclick, ...label }, shown));
}
