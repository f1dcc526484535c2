/** Says in how many seconds a request is sent again that the service had no room for. */

import { el } from "../dom.js";
import { t } from "../i18n.js";

export class Countdown {
  #timer = 0;
  element = el("p", { class: "hint note", role: "status" });

  start(seconds) {
    this.stop();
    let left = Math.ceil(seconds);
    const tell = () => (this.element.textContent = t("write.trying_again", { seconds: Math.max(left, 0) }));
    tell();
    this.#timer = setInterval(() => {
      left -= 1;
      tell();
    }, 1000);
  }

  stop() {
    clearInterval(this.#timer);
    this.element.textContent = "";
  }
}
