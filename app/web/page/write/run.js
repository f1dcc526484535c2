/** A request under way: its tokens go to samples as they come, and a line says how fast. One at a time. Knows no buttons. */

import { el } from "../dom.js";
import { t } from "../i18n.js";
import { Countdown } from "./countdown.js";
import { Frames } from "./frames.js";
import { Pace } from "./pace.js";

/** @typedef {import("./results.js").Sample} Sample @typedef {"idle" | "waiting" | "running"} State */

export class Run {
  /** @type {AbortController | null} */
  #abort = null;
  /** @type {Promise<boolean>} */
  #ended = Promise.resolve(true);
  #pace = new Pace();

  /**
   * @param {import("../main.js").App} app
   * @param {import("./results.js").Results} results
   * @param {(state: State) => void} turn told of each change
   */
  constructor(app, results, turn) {
    this.app = app;
    this.results = results;
    this.turn = turn;
    this.status = el("p", { id: "status", role: "status" });
    this.countdown = new Countdown();
    this.error = el("p", { id: "error", class: "alert", role: "alert", hidden: true });
    this.frames = new Frames(() => this.#draw());
  }

  /**
   * End what is under way, and send what `prepare` makes. Once the service has taken it, `accept` says of which samples its tokens
   * are: until then all that is shown stays. `settle` may mend what came, before all is said to be done.
   * False if nothing was taken.
   *
   * @param {() => any} prepare @param {() => Sample[]} accept @param {() => Promise<void>} [settle]
   */
  async start(prepare, accept, settle = async () => {}) {
    if (this.#abort) await this.stop();
    this.#ended = this.#run(prepare, accept, settle);
    return this.#ended;
  }

  /** Resolves when all that came is drawn. */
  stop() {
    this.#abort?.abort();
    return this.#ended;
  }

  clear() {
    this.status.textContent = "";
    this.error.hidden = true;
  }

  async #run(prepare, accept, settle) {
    const abort = (this.#abort = new AbortController());
    this.#pace = new Pace();
    let seed = "",
      isTaken = false;
    const onOpen = (response) => {
      seed = response.headers.get("x-seed") ?? "";
      isTaken = true;
      this.#taken();
    };
    this.error.hidden = true;
    this.turn("waiting");
    try {
      const body = await prepare();
      const options = { signal: abort.signal, onOpen, onRetry: ({ seconds }) => this.countdown.start(seconds) };
      const details = await this.#read(this.app.client.generate(body, options), accept);
      this.#conclude(this.#pace.firstTold, t("write.seed_was", { seed }), reasonOf(details));
    } catch (error) {
      if (!abort.signal.aborted) this.#fail(error);
      else if (isTaken) this.#conclude(t("write.stopped"), t("write.seed_was", { seed }));
    }
    this.countdown.stop();
    if (isTaken) await settle().catch(() => {}); // what came stays as it came
    this.#finish(seed);
    return isTaken;
  }

  /** @returns {Promise<any>} the last event's details */
  async #read(events, accept) {
    let samples = null,
      details = null;
    for await (const event of events) {
      samples ??= accept();
      this.#pace.count();
      samples[event.sample ?? 0].take(event);
      details = event.details ?? details;
      this.frames.request();
    }
    return details;
  }

  #taken() {
    this.countdown.stop();
    this.results.busy = true;
    this.status.ariaLive = "off"; // the running count is for the eye
    this.status.textContent = "";
    this.turn("running");
  }

  #draw() {
    this.results.draw();
    this.status.textContent = this.#pace.line();
  }

  #conclude(...facts) {
    this.frames.flush();
    this.status.ariaLive = "polite";
    this.status.textContent = this.#pace.line(...facts);
  }

  #fail(error) {
    this.frames.flush();
    this.error.textContent = this.app.explain(error);
    this.error.hidden = false;
    this.error.scrollIntoView({ block: "nearest" });
  }

  /** A text that was stopped has the seed that the headers told. */
  #finish(seed) {
    this.#abort = null;
    this.results.samples.forEach((sample, index) => (sample.seed ||= seed && String(BigInt(seed) + BigInt(index))));
    this.results.finish();
    this.results.busy = false;
    this.turn("idle");
  }
}

function reasonOf({ finish_reason: reason, max_new_tokens: clamped }) {
  if (reason === "eos_token") return t("write.ended");
  if (reason === "stop_sequence") return t("write.stop_found");
  return clamped === undefined ? "" : t("write.context_full");
}
