/** Whether tokens are shaded by their probability, and what the shades mean. A choice that this browser keeps, for every text. */

import { el } from "../dom.js";
import { LEVELS } from "./units.js";

const NAME = "shades"; // of localStorage: "off", or absent
/** @type {Set<() => void>} */
const all = new Set();

export class Shades {
  /** @param {HTMLElement} text that holds the tokens */
  constructor(text) {
    this.text = text;
    this.box = el("input", { type: "checkbox", onchange: () => choose(this.box.checked) });
    this.legend = el("span", { class: "legend", "aria-hidden": "true" }, steps());
    this.element = el(
      "div",
      { class: "row shades" },
      el("label", { class: "check" }, this.box, el("span", { "data-t": "write.shade" })),
      this.legend,
    );
    all.add(() => this.#show());
    this.#show();
  }

  #show() {
    const isOn = localStorage.getItem(NAME) !== "off";
    this.box.checked = isOn;
    this.legend.hidden = !isOn;
    this.text.classList.toggle("shaded", isOn);
  }
}

function choose(isOn) {
  if (isOn) localStorage.removeItem(NAME);
  else localStorage.setItem(NAME, "off");
  for (const show of all) show();
}

/** A sample of each shade with the least probability that has it. */
function steps() {
  const names = [...LEVELS.map((limit) => `≥ ${100 * limit} %`), `< ${100 * LEVELS.at(-1)} %`];
  return names.map((name, level) => el("span", { class: `token level-${level}` }, name));
}
