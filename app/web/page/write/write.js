/** The tab "write": to write, to see how surprising a text is, and to chat where the checkpoint can. */

import { clear, el } from "../dom.js";
import { Chat } from "./chat.js";
import { Live } from "./live.js";
import { Scoring } from "./scoring.js";
import { Settings } from "./settings.js";
import { Writing } from "./writing.js";

/** @typedef {"text" | "score" | "chat"} Name of a view; the address says it as in "#write?view=score" */

const LABELS = { text: "write.view_text", score: "write.view_score", chat: "write.view_chat" };

class WriteTab {
  /** @type {Name} */
  #chosen = "text";
  #isShown = false;

  /** @param {HTMLElement} root @param {import("../main.js").App} app */
  constructor(root, app) {
    this.app = app;
    this.settings = new Settings(() => this.views?.text.changed());
    this.live = new Live(app);
    this.views = { text: new Writing(app, this.settings), score: new Scoring(app), chat: new Chat(app, this.settings) };
    this.buttons = Object.fromEntries(Object.keys(LABELS).map((name) => [name, this.#button(name)]));
    this.panels = Object.fromEntries(Object.keys(LABELS).map((name) => [name, this.#panel(name)]));
    const choice = el("div", { class: "views", role: "group", "data-t-aria-label": "write.views" }, Object.values(this.buttons));
    root.classList.add("write"); // the scope of this tab's styles
    root.append(choice, ...Object.values(this.panels), this.live.element);
    document.addEventListener("keydown", (event) => this.#key(event));
    app.onKey(() => this.#learn());
    this.#learn();
  }

  #button(name) {
    const state = { "data-t": LABELS[name], hidden: name === "chat" };
    return el("button", { type: "button", id: `choose-${name}`, onclick: () => this.#choose(name), ...state });
  }

  #panel(name) {
    return el("section", { id: `view-${name}`, "data-t-aria-label": LABELS[name] }, this.views[name].element);
  }

  /** What of the page depends on what is served. */
  async #learn() {
    try {
      const info = await this.app.info();
      this.buttons.chat.hidden = info.chat_template === null;
      this.views.text.learn(info);
    } catch {
      // Whatever is asked for next says what is wrong.
    }
    if (this.#chosen === "chat" && this.buttons.chat.hidden) this.#choose("text");
  }

  show({ view = "text" }) {
    this.#isShown = true;
    this.#open(view in LABELS ? view : "text");
    this.live.show();
  }

  hide() {
    this.#isShown = false;
    this.live.hide();
  }

  #choose(name) {
    this.#open(name);
    this.app.route.replace("write", { view: name === "text" ? null : name });
  }

  #open(name) {
    this.#chosen = name;
    for (const [other, button] of Object.entries(this.buttons)) {
      button.setAttribute("aria-pressed", String(other === name));
      this.panels[other].hidden = other !== name;
    }
    this.views[name].slot?.append(this.settings.element); // one for both views that have a place for it
  }

  #key(event) {
    if (!this.#isShown) return;
    const view = this.views[this.#chosen];
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && view.state === "idle") {
      event.preventDefault();
      view.generate();
    }
    if (event.key !== "Escape") return;
    view.alternatives?.close(); // also what only the mouse has opened
    view.stop();
  }
}

/** @param {HTMLElement} root @param {import("../main.js").App} app @returns {import("../main.js").View} */
export function mount(root, app) {
  const tab = new WriteTab(clear(root), app);
  return { show: (params) => tab.show(params), hide: () => tab.hide() };
}
