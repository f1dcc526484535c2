/** The request that the button sends as a command or program, to copy. */

import { el } from "../dom.js";
import { onLanguage, t } from "../i18n.js";
import { SNIPPETS } from "./snippets.js";

const NAMES = { curl: "curl", python: "Python", javascript: "JavaScript" };

export class RequestPanel {
  #shown = "curl";

  /** @param {import("../main.js").App} app @param {() => Record<string, any>} body */
  constructor(app, body) {
    this.app = app;
    this.body = body;
    this.code = el("pre", { id: "snippet", tabIndex: 0, "data-t-aria-label": "write.request" });
    this.buttons = Object.entries(NAMES).map(([id, name]) =>
      el("button", { id, type: "button", onclick: () => this.#choose(id) }, name),
    );
    this.copy = el("button", {
      id: "copy-request",
      type: "button",
      class: "quiet",
      "data-t": "write.copy_request",
      onclick: () => this.#copy(),
    });
    this.copy.hidden = !navigator.clipboard;
    const choices = el(
      "div",
      { class: "row" },
      el("div", { class: "row", role: "group", "data-t-aria-label": "write.language_of_request" }, this.buttons),
      this.copy,
    );
    this.element = el(
      "details",
      { id: "request", class: "folded" },
      el("summary", { "data-t": "write.request" }),
      choices,
      this.code,
    );
    this.element.ontoggle = () => this.update();
    app.onKey(() => this.update());
    onLanguage(() => this.update());
  }

  /** Write it anew, where somebody sees it. */
  update() {
    for (const button of this.buttons) button.setAttribute("aria-pressed", String(button.id === this.#shown));
    if (!this.element.open) return;
    const url = new URL(".", location.href).href;
    this.code.textContent = SNIPPETS[this.#shown]({ url, body: { ...this.body(), stream: true }, needsKey: this.app.hasKey() });
    this.copy.textContent = t("write.copy_request");
  }

  #choose(id) {
    this.#shown = id;
    this.update();
  }

  async #copy() {
    await navigator.clipboard.writeText(this.code.textContent);
    this.copy.textContent = t("write.copied");
  }
}
