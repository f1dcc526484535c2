/** The list of what was written, to take up again or to delete. */

import { clear, el } from "../dom.js";
import { language, onLanguage, t } from "../i18n.js";
import * as history from "./history.js";

const MAX_TITLE = 90; // characters

export class HistoryPanel {
  /** @param {"write" | "chat"} kind of the entries that are shown @param {(entry: any) => void} restore */
  constructor(kind, restore) {
    this.kind = kind;
    this.restore = restore;
    this.list = el("ul", { class: "entries" });
    this.empty = el("button", {
      type: "button",
      class: "quiet delete-all",
      "data-t": "write.delete_all",
      onclick: () => this.#deleteAll(),
    });
    this.count = el("span");
    this.element = el(
      "details",
      { class: "folded history" },
      el("summary", null, el("span", { "data-t": "write.history" }), " ", this.count),
      el("p", { class: "hint", "data-t": "write.history_hint" }),
      this.list,
      this.empty,
    );
    this.element.ontoggle = () => this.#show();
    onLanguage(() => this.#show());
    this.#show();
  }

  /** Keep what was written; with the id of an entry that is there, in its place. @returns {number} its id */
  add(entry) {
    const at = Date.now();
    const id = entry.id ?? at;
    history.keep({ ...entry, id, at });
    this.#show();
    return id;
  }

  #show() {
    const entries = history.all().filter(({ kind }) => kind === this.kind);
    this.count.textContent = entries.length ? `(${entries.length})` : "";
    this.empty.hidden = !entries.length;
    clear(this.list);
    if (this.element.open) this.list.append(...entries.map((entry) => this.#row(entry)));
  }

  #row(entry) {
    const when = new Date(entry.at).toLocaleString(language(), { dateStyle: "short", timeStyle: "short" });
    const title = titleOf(entry) || t("write.empty");
    const take = el(
      "button",
      { type: "button", class: "quiet take", onclick: () => this.restore(entry) },
      el("span", { class: "title" }, title),
      el("time", { class: "hint", dateTime: new Date(entry.at).toISOString() }, when),
    );
    const label = t("write.delete_one", { title });
    return el(
      "li",
      null,
      take,
      el(
        "button",
        { type: "button", class: "quiet delete", "aria-label": label, title: label, onclick: () => this.#delete(entry) },
        "×",
      ),
    );
  }

  #delete({ id }) {
    history.remove(id);
    this.#show();
    this.element.querySelector("summary").focus();
  }

  #deleteAll() {
    history.removeAll(this.kind);
    this.#show();
    this.element.querySelector("summary").focus();
  }
}

/** How it begins: of a text the prompt and what came of it, of a talk its first words. */
function titleOf({ prompt, samples, messages }) {
  const text = messages
    ? messages.map(({ content }) => content).join(" ")
    : prompt + samples[0].tokens.map((token) => token.text).join("");
  return text.trim().slice(0, MAX_TITLE);
}
