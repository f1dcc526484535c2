/** The view to write in: a prompt, its settings, and what the model makes of it; from any token on, it may be made otherwise. */

import { el } from "../dom.js";
import { onLanguage, t } from "../i18n.js";
import { Alternatives } from "./alternatives.js";
import * as draft from "./draft.js";
import { HistoryPanel } from "./history_panel.js";
import { idsOf, joined, whole } from "./prompt_ids.js";
import { RequestPanel } from "./request_panel.js";
import { Results } from "./results.js";
import { Run } from "./run.js";
import { Shades } from "./shades.js";

/**
 * @typedef {import("../main.js").App} App
 * @typedef {import("./results.js").Sample} Sample
 * @typedef {{ prompt: string, parameters: Record<string, any>, ids: Promise<number[]> | null }} Text that is shown: its prompt,
 *   what it was sent with, and the prompt's ids once they were needed
 */

export class Writing {
  /** @type {Text} */
  #text = { prompt: "", parameters: {}, ids: null };

  /** @param {App} app @param {import("./settings.js").Settings} settings */
  constructor(app, settings) {
    this.app = app;
    this.settings = settings;
    this.results = new Results((sample) => this.#pick(sample));
    this.alternatives = new Alternatives(this.results.element, (token, unit, other) => this.#branch(token, unit.from, other));
    this.history = new HistoryPanel("write", (entry) => this.#restore(entry));
    this.requests = new RequestPanel(app, () => this.body);
    this.run = new Run(app, this.results, (state) => this.#turn(state));
    this.#build();
    this.#recall();
    onLanguage(() => this.#turn(this.state));
  }

  /** What the button sends. */
  get body() {
    return { inputs: this.prompt.value, parameters: this.settings.parameters };
  }

  #build() {
    this.prompt = el("textarea", {
      id: "prompt",
      rows: 3,
      value: "The old man looked at the sea and",
      oninput: () => this.changed(),
      "data-t-aria-label": "write.prompt",
      "data-t-placeholder": "write.prompt_hint",
    });
    this.go = el("button", { id: "go", class: "primary" });
    this.slot = el("div", null, this.settings.element);
    const form = el(
      "form",
      { id: "form", onsubmit: (event) => this.#submit(event) },
      el("div", { class: "card sheet" }, this.prompt, this.slot),
      el("div", { class: "row actions" }, this.go, this.run.countdown.element, keysHint()),
    );
    this.element = el(
      "div",
      { class: "writing" },
      form,
      this.run.error,
      this.#resultSection(),
      this.requests.element,
      this.history.element,
    );
    this.#turn("idle");
  }

  #resultSection() {
    const button = (id, key, onclick) => el("button", { id, type: "button", "data-t": key, onclick });
    this.copy = button("copy", "write.copy", () => this.#copy());
    this.copy.hidden = !navigator.clipboard; // there on https and localhost alone
    this.inside = el("a", { id: "inside", "data-t": "write.inside", hidden: true });
    this.single = [
      button("continue", "write.continue", () => this.#continue()),
      button("keep", "write.keep", () => this.#keepSeed()),
    ];
    this.after = el(
      "div",
      { class: "row", id: "after", hidden: true },
      this.single[0],
      button("use", "write.use", () => this.#use()),
      this.single[1],
      this.copy,
      this.inside,
    );
    const placed = el("div", { class: "placed" }, this.results.element, this.alternatives.panel);
    const shades = new Shades(this.results.element);
    this.result = el(
      "section",
      { id: "result", hidden: true, "data-t-aria-label": "write.result" },
      placed,
      this.run.status,
      this.after,
      shades.element,
    );
    return this.result;
  }

  /** Look like this state: "idle", "waiting" for the service to take a request, or "running". */
  #turn(state) {
    this.state = state;
    this.element.className = `writing ${state}`;
    this.go.textContent = state === "idle" ? t("write.generate") : t("write.stop");
    if (state === "waiting") this.alternatives.close();
    if (state === "running") this.result.hidden = false;
    if (state !== "waiting")
      this.after.hidden = state === "running" || !this.results.samples.some(({ text }) => text.tokens.length);
    this.result.classList.toggle("several", this.results.samples.length > 1);
    for (const button of this.single) button.hidden = this.results.samples.length > 1;
    this.copy.textContent = t("write.copy");
    this.inside.href = this.app.route.fragment("xray", { text: this.results.written });
    this.results.describe();
  }

  // ---- what a reader asks for

  #submit(event) {
    event.preventDefault();
    if (this.state === "idle") this.generate();
    else this.stop();
  }

  async generate() {
    const { inputs: prompt, parameters } = this.body;
    const begin = () => {
      this.#text = { prompt, parameters, ids: null };
      this.results.start(prompt, parameters.n ?? 1);
      return this.results.samples;
    };
    if (await this.run.start(() => this.body, begin)) this.#save();
  }

  stop() {
    return this.run.stop();
  }

  /** Go on behind the end; an end token that the model wrote itself is left out. */
  #continue() {
    const [sample] = this.results.samples;
    const { tokens } = sample.text;
    return this.#goOn(sample, sample.finish === "eos_token" ? tokens.slice(0, -1) : tokens);
  }

  /** Put another token at a place of a text, and go on from there. */
  async #branch(element, place, { id, text, logprob, special = false }) {
    const sample = this.results.sampleOf(element);
    await this.stop();
    const { top } = sample.text.tokens[place];
    return this.#goOn(sample, [...sample.text.tokens.slice(0, place), { id, text, logprob, special, top, chosen: true }]);
  }

  /** One text goes on behind these tokens, which the service has in its cache; the others stay. */
  async #goOn(sample, tokens) {
    const { client } = this.app;
    const text = this.#text;
    let kept = tokens;
    const prepare = async () => {
      text.ids ??= idsOf(client, text.prompt, text.parameters);
      text.ids.catch(() => (text.ids = null));
      const ids = await text.ids;
      kept = await whole(client, tokens, text.parameters);
      const { n, truncate, ...parameters } = this.settings.parameters; // the ids have been cut already
      return { inputs: [...ids, ...kept.map(({ id }) => id)], parameters };
    };
    const accept = () => {
      sample.restart(kept);
      return [sample];
    };
    const settle = async () => sample.text.set(await joined(client, sample.text.tokens, kept.length, text.parameters));
    if (await this.run.start(prepare, accept, settle)) this.#save();
  }

  async #pick(sample) {
    await this.stop();
    this.results.pick(sample);
    this.#turn("idle");
  }

  #use() {
    this.prompt.value = this.results.written;
    this.changed();
    this.prompt.focus();
  }

  #keepSeed() {
    this.settings.set({ ...this.settings.values, seed: this.results.samples[0].seed });
  }

  async #copy() {
    await navigator.clipboard.writeText(this.results.written);
    this.copy.textContent = t("write.copied");
  }

  /** Whether there is an X-ray to look inside with, and how long a text may be. @param {Record<string, any>} info */
  learn({ inspect, max_total_tokens: context }) {
    this.inside.hidden = inspect === false;
    this.settings.limit(context);
  }

  /** The prompt or a setting is another one. */
  changed() {
    draft.keep({ prompt: this.prompt.value, values: this.settings.values });
    this.requests.update();
  }

  /** As it was before the page was loaded anew. */
  #recall() {
    const kept = draft.kept();
    if (!kept) return;
    this.prompt.value = kept.prompt;
    this.settings.set(kept.values);
  }

  // ---- history

  #save() {
    const { prompt, parameters } = this.#text;
    const samples = this.results.samples.map(({ text, seed, finish }) => ({ tokens: text.tokens, seed, finish }));
    this.history.add({ kind: "write", prompt, parameters, values: this.settings.values, samples });
  }

  async #restore({ prompt, parameters, values, samples }) {
    await this.stop();
    this.#text = { prompt, parameters, ids: null };
    this.prompt.value = prompt;
    this.settings.set(values);
    this.results.restore(prompt, samples);
    this.result.hidden = false;
    this.run.clear();
    this.#turn("idle");
    this.result.scrollIntoView({ block: "nearest" });
  }
}

function keysHint() {
  const modifier = /Mac|iPhone|iPad/.test(navigator.platform) ? "⌘" : "Ctrl";
  const words = (key) => el("span", { "data-t": key });
  return el(
    "p",
    { class: "hint keys" },
    el("kbd", null, `${modifier} Enter`),
    " ",
    words("write.generates"),
    " ",
    el("kbd", null, "Esc"),
    " ",
    words("write.stops"),
  );
}
