/** Draws once a frame, however often it is asked to: text may come faster than a screen shows it. */

const HIDDEN_MS = 250; // a tab that nobody sees gets no frames

export class Frames {
  #wanted = 0;
  #timer = 0;

  /** @param {() => void} draw */
  constructor(draw) {
    this.draw = draw;
  }

  request() {
    if (this.#wanted || this.#timer) return;
    if (document.hidden) this.#timer = setTimeout(() => this.flush(), HIDDEN_MS);
    else this.#wanted = requestAnimationFrame(() => this.flush());
  }

  /** Draw at once. */
  flush() {
    cancelAnimationFrame(this.#wanted);
    clearTimeout(this.#timer);
    this.#wanted = this.#timer = 0;
    this.draw();
  }
}
