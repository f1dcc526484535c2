/** The view that shows how surprising each token of a text is. */

import { clear, el } from "../dom.js";
import { onLanguage, t } from "../i18n.js";
import { Alternatives } from "./alternatives.js";
import { Countdown } from "./countdown.js";
import { perplexity, score, sumsOf } from "./score.js";
import { Shades } from "./shades.js";
import { TokenText } from "./token_text.js";

export class Scoring {
  /** @type {AbortController | null} */
  #abort = null;

  /** @param {import("../main.js").App} app */
  constructor(app) {
    this.app = app;
    this.countdown = new Countdown();
    this.prompt = el("textarea", {
      id: "score-text",
      rows: 5,
      "data-t-aria-label": "write.score_text",
      "data-t-placeholder": "write.score_hint",
    });
    this.go = el("button", { id: "score-go", class: "primary" });
    this.error = el("p", { id: "score-error", class: "alert", role: "alert", hidden: true });
    this.output = el("p", { id: "scored", class: "text" });
    this.text = new TokenText(this.output);
    this.sums = el("dl", { id: "sums", class: "sums" });
    this.shades = new Shades(this.output);
    this.alternatives = new Alternatives(this.output, null);
    const form = el(
      "form",
      { onsubmit: (event) => this.#submit(event) },
      el("div", { class: "card sheet" }, this.prompt),
      el("div", { class: "row actions" }, this.go, this.countdown.element),
    );
    const placed = el("div", { class: "placed" }, this.output, this.alternatives.panel);
    this.result = el(
      "section",
      { hidden: true, "data-t-aria-label": "write.result" },
      el("div", { role: "status" }, this.sums),
      placed,
      this.shades.element,
    );
    this.element = el(
      "div",
      { class: "scoring" },
      el("p", { class: "hint", "data-t": "write.score_about" }),
      form,
      this.error,
      this.result,
    );
    this.#turn("idle");
    onLanguage(() => this.#turn(this.state));
  }

  #turn(state) {
    this.state = state;
    this.go.textContent = state === "idle" ? t("write.score") : t("write.stop");
    this.output.ariaBusy = String(state !== "idle");
    if (state === "idle") this.#sum();
  }

  #submit(event) {
    event.preventDefault();
    if (this.#abort) this.stop();
    else this.generate();
  }

  stop() {
    this.#abort?.abort();
  }

  /** Score what stands there. */
  async generate() {
    if (!this.prompt.value) return this.prompt.focus();
    const abort = (this.#abort = new AbortController());
    this.error.hidden = true;
    this.#turn("running");
    try {
      await this.#score(abort.signal);
    } catch (error) {
      if (!abort.signal.aborted) this.#fail(error);
    }
    this.#abort = null;
    this.countdown.stop();
    this.#turn("idle");
  }

  async #score(signal) {
    const { max_total_tokens: context } = await this.app.info();
    let isFirst = true;
    const options = { signal, onRetry: ({ seconds }) => this.countdown.start(seconds) };
    await score(this.app.client, this.prompt.value, context, options, (tokens) => {
      if (isFirst) this.text.set([]);
      isFirst = false;
      this.result.hidden = false;
      for (const token of tokens) this.text.push(token);
      this.text.draw();
    });
    this.text.draw(true);
  }

  #fail(error) {
    this.error.textContent = this.app.explain(error);
    this.error.hidden = false;
  }

  #sum() {
    const sums = sumsOf(this.text.tokens);
    clear(this.sums);
    if (!this.text.tokens.length) return;
    const fact = (name, value) => el("div", null, el("dt", null, name), el("dd", null, value));
    const perByte = sums.num ? (sums.bits / sums.bytes).toFixed(3) : "–";
    this.sums.append(
      fact(t("write.num_scored"), String(sums.num)),
      fact(t("write.bits"), sums.bits.toFixed(1)),
      fact(t("write.bits_per_byte"), perByte),
      fact(t("write.perplexity"), sums.num ? perplexity(sums).toFixed(2) : "–"),
    );
  }
}
