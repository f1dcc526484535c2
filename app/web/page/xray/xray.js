/**
 * The X-ray tab: a text is looked at inside the network that serves. Holds the state, asks for answers, tells the parts of both.
 *
 * A move over positions and layers changes the state and draws once in the next frame, from the answer that is there.
 */

import { language, onLanguage, setLanguage, t } from "../i18n.js";
import { partToggled } from "./ablations.js";
import { save, share, standalone } from "./export.js";
import { draw, fill } from "./fill.js";
import { makeFlow } from "./flow.js";
import { above, makeLevels } from "./levels.js";
import { meanPatterns } from "./numbers.js";
import { makeAsker } from "./request.js";
import { clamped, fromParams, questionOf, toParams } from "./state.js";
import { led } from "./steering.js";
import { makeView } from "./view.js";

const TYPING_MS = 500; // without a key, and the text is asked for
const SAID_MS = 700; // without an arrow, and a screen reader says where one is
const SETTLED_MS = 250; // without a move, and the address follows; browsers limit how often it may change

/** @param {HTMLElement} root @param {import("../main.js").App} app @returns {import("../main.js").View} */
export function mount(root, app) {
  const xray = new Xray(root, app);
  onLanguage(() => xray.rebuild());
  app.onKey(() => xray.shown && xray.ask()); // what was asked without it was refused
  return { show: (params) => xray.show(params), hide: () => xray.hide() };
}

class Xray {
  constructor(root, app) {
    Object.assign(this, { root, app, answered: null, patterns: {}, order: null, state: null, frame: 0, timers: {} });
    this.asker = makeAsker(app, {
      onAnswer: (answer) => this.take(answer),
      onRest: (rest) => this.takeRest(rest),
      onWaiting: (words) => this.wait(words),
      onError: (error) => this.fail(error),
      onOff: () => (this.view.root.hidden = true), // the shell says so
    });
    addEventListener("keydown", (event) => this.escape(event));
  }

  show(params) {
    if (!this.state && (params.language === "en" || params.language === "zh") && params.language !== language())
      setLanguage(params.language, { keep: false }); // a link's, which is no choice of this reader's
    const state = fromParams(params, this.state?.text ?? t("xray.example"));
    this.state = state;
    this.shown = true;
    if (!this.view) this.build();
    if (this.view.text.value !== state.text) this.view.text.value = state.text;
    if (this.isOld()) this.ask();
    else this.refill();
  }

  hide() {
    this.shown = false;
    clearTimeout(this.timers.typing);
  }

  /** Whether what is shown answers another question than the one that is put, or none. */
  isOld() {
    return this.answered?.question !== questionOf(this.state);
  }

  build() {
    this.view = makeView({
      onText: () => this.later("typing", TYPING_MS, () => this.askFor({ text: this.view.text.value })),
      onGo: (event) => {
        event.preventDefault();
        this.askFor({ text: this.view.text.value }, true);
      },
      onSelect: (choice) => this.select(choice),
      onSlide: (choice) => {
        this.select(choice);
        this.flow.reveal(choice.layer);
      },
      onChances: (choice) => this.select(choice),
      onRun: (run) => this.choose({ run }),
      onOpen: () => this.open({ level: "block" }),
      onAblations: (ablations) => this.askFor({ ablations }),
      onToggle: (one, sizes) => this.askFor({ ablations: partToggled(this.state.ablations, one, sizes) }),
      onTarget: (target) => this.askFor(target),
      onOrder: () => this.asker.askOrder(this.state, (answer) => this.takeOrder(answer)),
      onLink: (event) => this.link(event.currentTarget),
      onSvg: () => this.picture() && save(standalone(this.picture()), "gpt2-xray.svg", "image/svg+xml"),
      onJson: () => save(JSON.stringify(this.answered.answer, null, 1), "gpt2-xray.json", "application/json"),
    });
    this.root.replaceChildren(this.view.root);
    this.levels = makeLevels(this.view, this.app, (choice) => this.open(choice));
  }

  /** All texts anew, from the answer that is there; the address says the new language, or a reload would bring back the old one. */
  rebuild() {
    if (!this.view) return;
    const { value } = this.view.text;
    this.levels.close();
    this.build();
    this.view.text.value = value;
    this.remember();
    if (this.answered) this.refill();
    if (this.isOld()) this.ask();
  }

  // ---- questions and answers

  later(name, milliseconds, action) {
    clearTimeout(this.timers[name]);
    this.timers[name] = setTimeout(action, milliseconds);
  }

  /** Change what the answer depends on, and ask, if it is changed. */
  askFor(change, always = false) {
    clearTimeout(this.timers.typing);
    const before = questionOf(this.state);
    if (change.text !== undefined && change.text !== this.state.text)
      Object.assign(this.state, { position: null, target: null, token: null });
    const hadNone = !this.state.ablations.length;
    Object.assign(this.state, change);
    if (change.ablations) this.state.run = change.ablations.length ? (hadNone ? "ablated" : this.state.run) : "run";
    if (always || questionOf(this.state) !== before) this.ask();
  }

  ask() {
    this.view.error.hidden = true;
    this.view.bar.hidden = !this.answered;
    this.view.chips.fill(this.state.ablations);
    this.remember();
    this.mark(!this.state.text);
    if (this.state.text) return this.asker.ask({ ...this.state });
    this.asker.stop();
    this.view.status.textContent = t("xray.empty");
  }

  take(answer) {
    const { state } = this;
    this.answered = { answer, question: questionOf(state), ablations: state.ablations, isWhole: false };
    this.patterns = {};
    this.order = null;
    this.refill();
    this.app.announce(t("xray.done", { tokens: answer.tokens.length, loss: (answer.run.loss ?? 0).toFixed(2) }));
  }

  /** The continuations, which are the answer's from now on, and the attention for the picture. */
  takeRest({ run, ablated }) {
    const { answer } = this.answered;
    const { length } = answer.run.summaries.norms.resid_post;
    answer.run.continuation = run.continuation;
    if (ablated) answer.ablated.continuation = ablated.continuation;
    this.answered.isWhole = true;
    this.patterns = { run: meanPatterns(run, length), ablated: meanPatterns(ablated, length) };
    this.view.compare.fill(this.answered, this.state.run);
    this.draw();
  }

  takeOrder(answer) {
    this.order = answer.layer_norm_order;
    this.view.order.fill(this.order);
  }

  wait(words) {
    if (this.view.status.textContent !== words) this.view.status.textContent = words;
    this.view.root.classList.toggle("waiting", words !== "");
  }

  fail(error) {
    this.view.error.textContent = this.app.explain(error);
    this.view.error.hidden = false;
    this.mark(true);
  }

  /** Dim what answers another question, and say so where no answer is on its way. */
  mark(isOver = !this.view.old.hidden) {
    const isOld = this.answered !== null && this.isOld();
    this.view.root.classList.toggle("stale", isOld);
    this.view.old.hidden = !(isOld && isOver);
    for (const button of this.view.saves) button.disabled = isOld;
  }

  /** Put the answer into all parts; the choice is kept as far as it is there. */
  refill() {
    const { view, state } = this,
      { answer } = this.answered;
    if (!answer.ablated) state.run = "run";
    Object.assign(state, this.place());
    const [run, other] = state.run === "ablated" ? [answer.ablated, answer.run] : [answer.run, answer.ablated];
    this.run = run;
    view.bar.hidden = false;
    this.flow = makeFlow(
      { answer, run, other },
      { onSelect: (choice) => this.select(choice), onOpen: (layer) => this.open({ level: "block", layer }) },
    );
    this.flow.node.addEventListener("keydown", (event) => this.steer(event));
    view.figure.replaceChildren(this.flow.node);
    view.figure.style.setProperty("--width", `${this.flow.at.width}px`);
    view.layer.input.max = String(this.flow.at.layers - 1);
    view.position.input.max = String(answer.tokens.length - 1);
    fill(view, this.answered, state, run, this.order, (ablations) => this.askFor({ ablations }));
    this.mark();
    this.showLevel();
    this.draw();
  }

  // ---- the choice

  /** Take a choice and draw it in the next frame, once, however many there are before it. */
  select(choice) {
    const changed = Object.keys(choice).filter((name) => this.state[name] !== choice[name]);
    if (!changed.length || !this.answered) return;
    Object.assign(this.state, choice);
    this.frame ||= requestAnimationFrame(() => this.draw());
    this.later("settled", SETTLED_MS, () => this.remember());
  }

  choose(choice) {
    Object.assign(this.state, choice);
    this.remember();
    this.refill();
  }

  /** The choice within the answer that is there, which may be of a text before. */
  place() {
    const { tokens, run } = this.answered.answer;
    return clamped(this.state, tokens.length, run.summaries.norms.resid_post.length);
  }

  draw() {
    this.frame = 0;
    const { view, state, run } = this,
      { answer } = this.answered;
    const told = { ...state, ...this.place(), tokens: answer.tokens, patterns: this.patterns[state.run] };
    this.flow.update(told);
    draw(view, told, run);
  }

  /** Arrows on the picture move the choice; Enter opens the block. */
  steer(event) {
    const to = led(event.key, this.place(), { layers: this.flow.at.layers, tokens: this.answered.answer.tokens.length });
    if (to) {
      this.select(to);
      this.later("said", SAID_MS, () => this.app.announce(this.view.reading.sentence.textContent));
      if (to.layer !== undefined) this.flow.focus(to.layer);
    } else if (event.key === "Enter" || event.key === " ") this.open({ level: "block" });
    else return;
    event.preventDefault();
  }

  // ---- levels, and what can be taken along

  /** Take a level or a choice in it; another level is a step in the history, so that Back leads out of it. */
  open(choice) {
    const { level, run } = this.state;
    const isOther = choice.level !== undefined && choice.level !== level;
    if (isOther) {
      this.remember();
      history.pushState(null, "", location.href);
    }
    Object.assign(this.state, choice);
    if (isOther) this.remember();
    else this.later("settled", SETTLED_MS, () => this.remember());
    if (this.state.run === run) this.showLevel();
    else this.refill();
    if (!isOther) return;
    if (choice.level === "flow") this.flow.focus(this.place().layer);
    else this.levels.focus();
  }

  showLevel() {
    this.levels.show(this.answered, { ...this.state, ...this.place() });
    if (this.state.level === "flow") this.draw();
  }

  escape(event) {
    if (event.key !== "Escape" || !this.shown || !this.state || this.state.level === "flow" || event.defaultPrevented) return;
    if (this.answered) this.open({ level: above(this.state.level) });
  }

  picture() {
    return this.state.level === "flow" ? this.flow?.node : this.view.zoom.querySelector("svg");
  }

  remember() {
    clearTimeout(this.timers.settled);
    this.app.route.replace("xray", toParams(this.state, language()));
  }

  async link(button) {
    this.remember();
    await share(new URL(this.app.route.fragment("xray", toParams(this.state, language())), location.href).href, this.view.status);
    button.focus();
  }
}
