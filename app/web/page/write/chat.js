/** The view to chat in, where the checkpoint has a template: the talk so far goes with every message. */

import { clear, el } from "../dom.js";
import { onLanguage, t, translate } from "../i18n.js";
import { Countdown } from "./countdown.js";
import { chatFieldsOf } from "./fields.js";
import { Frames } from "./frames.js";
import { HistoryPanel } from "./history_panel.js";

/** @typedef {{ role: "system" | "user" | "assistant", content: string }} Message */

export class Chat {
  /** @type {AbortController | null} */
  #abort = null;
  /** @type {Message[]} */
  #messages = [];
  /** The entry of the history that this talk is. @type {number | undefined} */
  #id = undefined;
  #pending = "";
  /** @type {Promise<boolean>} */
  #replied = Promise.resolve(true);

  /** @param {import("../main.js").App} app @param {import("./settings.js").Settings} settings */
  constructor(app, settings) {
    this.app = app;
    this.settings = settings;
    this.countdown = new Countdown();
    this.frames = new Frames(() => this.#draw());
    this.history = new HistoryPanel("chat", (entry) => this.#restore(entry));
    this.#build();
    this.#turn("idle");
    onLanguage(() => this.#turn(this.state));
  }

  #build() {
    this.log = el("ol", { id: "talk", class: "talk" });
    this.talk = el("div", { role: "log", "data-t-aria-label": "write.talk" }, this.log);
    this.error = el("p", { id: "chat-error", class: "alert", role: "alert", hidden: true });
    this.message = el("textarea", {
      id: "message",
      rows: 2,
      "data-t-aria-label": "write.message",
      "data-t-placeholder": "write.message_hint",
      onkeydown: (event) => this.#key(event),
    });
    this.go = el("button", { id: "chat-go", class: "primary" });
    this.again = el("button", { id: "again", type: "button", "data-t": "write.again", onclick: () => this.#again() });
    this.anew = el("button", {
      id: "anew",
      type: "button",
      "data-t": "write.new_talk",
      onclick: () => this.#restore({ messages: [] }),
    });
    this.slot = el("div");
    const form = el(
      "form",
      { onsubmit: (event) => this.#submit(event) },
      el("div", { class: "card sheet" }, this.message, this.slot),
      el("div", { class: "row actions" }, this.go, this.again, this.anew, this.countdown.element),
    );
    this.element = el("div", { class: "chat" }, this.talk, this.error, form, this.history.element);
  }

  #turn(state) {
    this.state = state;
    const isIdle = state === "idle";
    this.go.textContent = isIdle ? t("write.send") : t("write.stop");
    this.talk.ariaBusy = String(!isIdle);
    this.log.hidden = !this.#messages.length;
    this.again.hidden = !isIdle || this.#messages.at(-1)?.role !== "assistant";
    this.anew.hidden = !isIdle || !this.#messages.length;
  }

  /** Enter sends, Shift-Enter is a new line. */
  #key(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    if (this.state === "idle") this.generate();
  }

  #submit(event) {
    event.preventDefault();
    if (this.state === "idle") this.generate();
    else this.stop();
  }

  /** Resolves when all that came is there. */
  stop() {
    this.#abort?.abort();
    return this.#replied;
  }

  /** Send the message that stands there. */
  async generate() {
    const content = this.message.value.trim();
    if (!content) return this.message.focus();
    this.message.value = "";
    this.#add({ role: "user", content });
    if (await (this.#replied = this.#reply())) return;
    this.#messages.pop(); // it was refused: it stands where it was written again
    this.log.lastElementChild.remove();
    this.message.value = content;
    this.#turn("idle");
  }

  async #again() {
    this.#messages.pop();
    this.log.lastElementChild.remove();
    await (this.#replied = this.#reply());
  }

  /** @returns {Promise<boolean>} whether the service took it */
  async #reply() {
    const abort = (this.#abort = new AbortController());
    let isTaken = false;
    this.error.hidden = true;
    this.#turn("running");
    const onOpen = () => {
      isTaken = true;
      this.countdown.stop();
      this.#add({ role: "assistant", content: "" });
    };
    try {
      const body = { messages: [...this.#messages], ...chatFieldsOf(this.settings.parameters) };
      const options = { signal: abort.signal, onOpen, onRetry: ({ seconds }) => this.countdown.start(seconds) };
      for await (const { choices } of this.app.client.chat(body, options)) this.#take(choices[0]?.delta?.content ?? "");
    } catch (error) {
      if (!abort.signal.aborted) this.#fail(error);
    }
    this.#finish(isTaken);
    return isTaken;
  }

  #take(text) {
    this.#messages.at(-1).content += text;
    this.#pending += text;
    this.frames.request();
  }

  #draw() {
    const page = document.documentElement;
    const follows = page.scrollHeight - page.scrollTop - page.clientHeight < 160;
    if (this.#pending) this.log.lastElementChild.querySelector(".text").append(this.#pending);
    this.#pending = "";
    if (follows) page.scrollTop = page.scrollHeight;
  }

  #finish(isTaken) {
    this.frames.flush();
    this.#abort = null;
    this.countdown.stop();
    this.#turn("idle");
    if (isTaken) this.#id = this.history.add({ kind: "chat", id: this.#id, messages: this.#messages });
  }

  #fail(error) {
    this.error.textContent = this.app.explain(error);
    this.error.hidden = false;
  }

  /** @param {Message} message */
  #add(message) {
    this.#messages.push(message);
    const name = message.role === "user" ? "write.you" : "write.model";
    const item = el(
      "li",
      { class: message.role },
      el("p", { class: "hint", "data-t": name }),
      el("p", { class: "text" }, message.content),
    );
    translate(item);
    this.log.append(item);
    this.log.hidden = false;
  }

  async #restore({ messages, id }) {
    await this.stop();
    this.#id = id;
    this.#messages = [];
    clear(this.log);
    for (const message of messages) this.#add({ ...message });
    this.error.hidden = true;
    this.#turn("idle");
    this.message.focus();
  }
}
