/** What came of a prompt: one text, or several side by side. Knows no request. */

import { clear, el } from "../dom.js";
import { t, translate } from "../i18n.js";
import { TokenText } from "./token_text.js";

/** One of the texts. */
export class Sample {
  seed = "";
  /** @type {string | null} */
  finish = null;

  /** @param {HTMLElement} output that the text is written into @param {HTMLElement | null} card around it, if there are several */
  constructor(output, card) {
    this.text = new TokenText(output);
    this.card = card;
  }

  /** Of an event of /generate: its token and, at the end, how it ended. */
  take({ token, top_tokens: top = [], details }) {
    this.text.push({ ...token, top });
    if (!details) return;
    this.seed = String(details.seed);
    this.finish = details.finish_reason;
  }

  /** Show these tokens, behind which it goes on. @param {import("./units.js").Token[]} tokens */
  restart(tokens) {
    this.text.set(tokens);
    this.finish = null;
  }
}

export class Results {
  /** @type {Sample[]} */
  samples = [];

  /** @param {(sample: Sample) => void} onPick told of the text that the reader goes on with */
  constructor(onPick) {
    this.onPick = onPick;
    this.given = el("span", { id: "given" });
    this.output = el("span", { id: "output" });
    // Announced when it is complete: aria-busy keeps a screen reader from stammering token after token.
    this.single = el("p", { class: "text", id: "text", "aria-live": "polite", "aria-busy": "false" }, this.given, this.output);
    this.cards = el("div", { class: "samples", id: "samples" });
    this.element = el("div", { id: "results" }, this.single, this.cards);
  }

  /** Make room for `num` texts that go on from a prompt. */
  start(prompt, num) {
    this.given.textContent = prompt;
    clear(this.output);
    clear(this.cards);
    this.samples = num === 1 ? [new Sample(this.output, null)] : Array.from({ length: num }, (_, index) => this.#card(index));
    this.cards.hidden = num === 1;
    this.single.hidden = num > 1 && !prompt;
  }

  /** One text alone, the others gone. @param {Sample} sample */
  pick(sample) {
    const { seed, finish } = sample;
    this.restore(this.given.textContent, [{ tokens: sample.text.tokens, seed, finish }]);
  }

  /** Show what was kept of an earlier text. @param {import("./history.js").SavedSample[]} saved */
  restore(prompt, saved) {
    this.start(prompt, saved.length);
    saved.forEach(({ tokens, seed, finish }, index) => {
      Object.assign(this.samples[index], { seed, finish });
      this.samples[index].text.set(tokens);
    });
  }

  /** The text as a reader would copy it: the prompt and, of several, each. */
  get written() {
    return this.samples.map(({ text }) => this.given.textContent + text.element.textContent).join("\n\n");
  }

  set busy(busy) {
    this.single.ariaBusy = this.cards.ariaBusy = String(busy);
  }

  /** Write what is left, a character that never became complete too. */
  finish() {
    for (const { text } of this.samples) text.draw(true);
  }

  sampleOf(element) {
    return this.samples.find(({ text }) => text.element.contains(element));
  }

  /** Of the cards, how long each is and its seed. */
  describe() {
    for (const { card, text, seed } of this.samples) {
      const facts = card?.querySelector(".facts");
      if (facts) facts.textContent = t("write.sample_facts", { num: text.tokens.length, seed });
    }
  }

  #card(index) {
    const output = el("p", { class: "text" });
    const pick = el("button", { type: "button", class: "pick", "data-t": "write.pick" });
    const name = el("h2", null, el("span", { "data-t": "write.sample" }), ` ${index + 1}`);
    const card = el(
      "article",
      { class: "card sample" },
      el("div", { class: "row" }, name, el("span", { class: "facts hint" })),
      output,
      pick,
    );
    const sample = new Sample(output, card);
    pick.onclick = () => this.onPick(sample);
    translate(card);
    this.cards.append(card);
    return sample;
  }

  /** Add what came, and keep the end in view for a reader who has not scrolled away from it. */
  draw() {
    const page = document.documentElement;
    const follows = page.scrollHeight - page.scrollTop - page.clientHeight < 80;
    for (const { text } of this.samples) text.draw();
    if (follows) page.scrollTop = page.scrollHeight;
  }
}
