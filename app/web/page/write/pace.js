/** How fast the tokens of a request come, for the line below a text. */

import { t } from "../i18n.js";

export class Pace {
  num = 0;
  sent = performance.now();
  first = 0;
  latest = 0;

  count() {
    this.latest = performance.now();
    this.first ||= this.latest;
    this.num += 1;
  }

  /** @param {...string} more what else is to be said */
  line(...more) {
    const count = this.num === 1 ? t("write.one_token") : t("write.tokens", { num: this.num });
    const seconds = (this.latest - this.first) / 1000;
    const rate = seconds > 0 ? t("write.rate", { rate: ((this.num - 1) / seconds).toFixed(0) }) : "";
    return [count, rate, ...more].filter(Boolean).join("  ·  ");
  }

  get firstTold() {
    return t("write.first_after", { ms: (this.first - this.sent).toFixed(0) });
  }
}
