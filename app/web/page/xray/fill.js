/** Puts an answer, and the choice of a place in it, into the parts of the tab. Asks nothing and keeps nothing. */

import { t } from "../i18n.js";
import { makeSwitches } from "./switches.js";
import { servedWords } from "./tokens.js";
import { write } from "./write.js";

/**
 * @param {object} view of view.js
 * @param {{answer: object, isWhole: boolean}} answered
 * @param {import("./state.js").State} state
 * @param {object} run the one of the answer's that is shown
 * @param {object | null} order of LayerNorm, measured
 * @param {(ablations: object[]) => void} onAblations
 */
export function fill(view, answered, state, run, order, onAblations) {
  const { answer } = answered;
  view.tokens.fill(answer.tokens, run, answer.served);
  view.served.textContent = servedWords(answer);
  view.reading.fill(answer, run);
  view.lens.fill(answer, run);
  view.attribution.fill(run, state.ablations);
  view.compare.fill(answered, state.run);
  view.order.fill(order);
  if (!view.switchForm) {
    const { heads } = run.summaries.attribution;
    view.switchForm = makeSwitches({ layers: heads.length, heads: heads[0].length }, onAblations);
    view.switches.replaceChildren(view.switchForm.node);
  }
  view.switchForm.fill(state.ablations);
  view.chips.fill(state.ablations);
}

/** Cheap enough for every frame: attributes and texts of what is there. @param {object} view @param {object} told @param {object} run */
export function draw(view, told, run) {
  view.tokens.update(told);
  view.lens.update(told);
  view.attribution.update(told);
  view.reading.update(told);
  view.chances.update(told, run);
  view.switchForm.update(told);
  view.layer.set(told.layer);
  view.position.set(told.position);
  write(view.open, t("xray.open", { block: told.layer }));
}
