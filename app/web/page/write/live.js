/**
 * What the service does right now, from its metrics; asked for only while somebody looks. Absent where they need a key that is not
 * there.
 */

import { el, svg } from "../dom.js";
import { buckets, parse, quantile, since, total } from "./prometheus.js";

const EVERY_MS = 1500;
const AWAY_MS = 15_000; // until a service that was not there is asked again
const NUM_KEPT = 40; // samples: the last minute
const [WIDTH, HEIGHT] = [120, 24];
const FIRST_TOKEN = "gpt2_time_to_first_token_seconds";

/** @typedef {{ at: number, tokens: number, running: number, waiting: number, first: Map<number, number> }} Reading */

export class Live {
  /** @type {Reading[]} */
  #readings = [];
  #timer = 0;
  #isShown = false;

  /** @param {import("../main.js").App} app */
  constructor(app) {
    this.app = app;
    this.values = {};
    this.line = svg("polyline", { class: "spark", points: "" });
    const chart = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: WIDTH, height: HEIGHT, "aria-hidden": "true" }, this.line);
    this.element = el(
      "section",
      { id: "live", class: "live", hidden: true, "data-t-aria-label": "write.live" },
      el(
        "dl",
        null,
        this.#fact("rate", "write.live_rate"),
        this.#fact("running", "write.live_running"),
        this.#fact("waiting", "write.live_waiting"),
        this.#fact("first", "write.live_first"),
      ),
      chart,
    );
    document.addEventListener("visibilitychange", () => this.#turn());
    app.onKey(() => this.#turn());
  }

  #fact(name, key) {
    this.values[name] = el("dd", { id: `live-${name}` }, "–");
    return el("div", null, el("dt", { "data-t": key }), this.values[name]);
  }

  show() {
    this.#isShown = true;
    this.#turn();
  }

  hide() {
    this.#isShown = false;
    this.#turn();
  }

  #turn() {
    clearTimeout(this.#timer);
    if (!this.#isShown || document.hidden)
      this.#readings = []; // a rate over a gap would be none
    else this.#ask();
  }

  /** Not by the client, which would ask the reader for a key on a 401: without one there is nothing to see, until there is one. */
  async #ask() {
    let wait = EVERY_MS;
    try {
      const response = await fetch(new URL("metrics", location.href), { headers: this.app.headers() });
      if (response.status === 401) wait = Infinity;
      this.element.hidden = !response.ok;
      if (response.ok) this.#take(parse(await response.text()));
    } catch {
      this.element.hidden = true;
      wait = AWAY_MS;
    }
    clearTimeout(this.#timer);
    if (this.#isShown && !document.hidden && wait < Infinity) this.#timer = setTimeout(() => this.#ask(), wait);
  }

  #take(all) {
    const value = (name) => total(all, name) ?? 0;
    const reading = {
      at: performance.now(),
      tokens: value("gpt2_generated_tokens_total"),
      running: value("gpt2_requests_running"),
      waiting: value("gpt2_requests_waiting"),
      first: buckets(all, FIRST_TOKEN),
    };
    this.#readings = [...this.#readings, reading].slice(-NUM_KEPT);
    this.#draw(reading);
  }

  #draw(last) {
    const rates = this.#readings.slice(1).map((now, place) => rate(this.#readings[place], now));
    const first = quantile(since(last.first, this.#readings[0].first), 0.5) ?? quantile(last.first, 0.5);
    const texts = {
      rate: rates.length ? rates.at(-1).toFixed(0) : "–",
      running: last.running.toFixed(0),
      waiting: last.waiting.toFixed(0),
      first: first === null ? "–" : `${(1000 * first).toFixed(first < 0.01 ? 1 : 0)} ms`,
    };
    for (const [name, text] of Object.entries(texts)) this.values[name].textContent = text;
    const most = Math.max(...rates, 1);
    const x = (place) => WIDTH - ((rates.length - 1 - place) * WIDTH) / (NUM_KEPT - 2);
    this.line.setAttribute(
      "points",
      rates.map((value, place) => `${x(place).toFixed(1)},${(HEIGHT - 1 - (value / most) * (HEIGHT - 2)).toFixed(1)}`).join(" "),
    );
  }
}

/** Tokens a second between two readings; a service that was started anew counts from 0. */
const rate = (before, now) => Math.max(0, (1000 * (now.tokens - before.tokens)) / (now.at - before.at));
