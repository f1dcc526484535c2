/** The fields of a request as a reader sets them: four in sight, the others folded away. Knows no request under way. */

import { el } from "../dom.js";
import { FOLDED, parametersOf } from "./fields.js";

const SLIDERS = [
  { id: "length", label: "write.length", min: 10, max: 500, step: 10, value: "150" },
  { id: "temperature", label: "write.temperature", min: 0, max: 1.5, step: 0.05, value: "0.8" },
  { id: "top_p", label: "write.top_p", min: 0.05, max: 1, step: 0.05, value: "0.95" },
  { id: "n", label: "write.samples", min: 1, max: 8, step: 1, value: "1", noChat: true },
];

export class Settings {
  /** @param {() => void} onChange told of every change, by hand or not */
  constructor(onChange) {
    this.onChange = onChange;
    /** @type {Map<string, HTMLInputElement | HTMLTextAreaElement>} */
    this.controls = new Map();
    /** What shows a slider's value. @type {Map<string, HTMLOutputElement>} */
    this.outputs = new Map();
    this.sliders = el(
      "div",
      { class: "sliders" },
      SLIDERS.map((slider) => this.#slider(slider)),
    );
    this.reset = el("button", {
      type: "button",
      id: "reset",
      class: "quiet",
      "data-t": "write.reset",
      onclick: () => this.set({}),
    });
    this.folded = el(
      "details",
      { class: "folded", id: "more" },
      el("summary", null, el("span", { "data-t": "write.more" }), " ", (this.changed = el("span", { class: "changed" }))),
      el(
        "div",
        { class: "fields" },
        this.#seed(),
        FOLDED.map((field) => this.#field(field)),
      ),
      el("div", { class: "row" }, el("p", { class: "hint", "data-t": "write.more_hint" }), this.reset),
    );
    this.element = el("div", { class: "settings", oninput: () => this.#told() }, this.sliders, this.folded);
    this.defaults = this.values;
    this.#told();
  }

  /** What stands in all fields, as it was typed. */
  get values() {
    const valueOf = (control) => (control.type === "checkbox" ? control.checked : control.value);
    return Object.fromEntries([...this.controls].map(([name, control]) => [name, valueOf(control)]));
  }

  get parameters() {
    return parametersOf(this.values);
  }

  /** Put these values in, and the defaults where there are none. */
  set(values) {
    for (const [name, control] of this.controls) {
      const value = values[name] ?? this.defaults[name];
      if (control.type === "checkbox") control.checked = value;
      else control.value = value;
    }
    this.#told();
  }

  /** The service's context holds so many tokens. */
  limit(maxTokens) {
    const length = this.controls.get("length");
    length.max = String(Math.min(500, maxTokens - 1));
    this.#told();
  }

  #told() {
    for (const [id, output] of this.outputs) output.value = this.controls.get(id).value;
    const values = this.values;
    const num = ["seed", ...FOLDED.map(({ name }) => name)].filter((name) => values[name] !== this.defaults[name]).length;
    this.changed.textContent = num ? `(${num})` : "";
    this.onChange();
  }

  #slider({ id, label, min, max, step, value, noChat }) {
    const control = el("input", { id, type: "range", min, max, step, value });
    const output = el("output", { htmlFor: id, "aria-hidden": "true" }); // the slider says it itself
    this.controls.set(id, control);
    this.outputs.set(id, output);
    // Without `for` the label would be the output's, which stands first in it.
    return el(
      "label",
      { for: id, class: noChat ? "no-chat" : null },
      el("span", null, el("span", { "data-t": label }), output),
      control,
    );
  }

  #seed() {
    const control = el("input", {
      id: "seed",
      inputMode: "numeric",
      autocomplete: "off",
      "data-t-placeholder": "write.seed_drawn",
    });
    this.controls.set("seed", control);
    return el("label", null, el("span", { "data-t": "write.seed" }), control);
  }

  #field({ name, label, kind, absent, min, max, step, hint, noChat }) {
    const id = `field-${name}`;
    const common = { id, autocomplete: "off", spellcheck: false };
    let control;
    if (kind === "check") control = el("input", { id, type: "checkbox", checked: absent });
    else if (kind === "number" || kind === "whole")
      control = el("input", { ...common, type: "number", min, max, step, value: absent });
    else if (kind === "ids") control = el("input", { ...common, inputMode: "numeric" });
    else control = el("textarea", { ...common, rows: 2, "data-t-placeholder": hint });
    this.controls.set(name, control);
    const words = el("span", { "data-t": label });
    return kind === "check"
      ? el("label", { class: "check" }, control, words)
      : el("label", { class: noChat ? "no-chat" : null }, words, control);
  }
}
