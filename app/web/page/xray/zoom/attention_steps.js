/** The steps from two tokens to what a head adds to the stream, on the real numbers of a query and a key. */

import { el } from "../../dom.js";
import { t } from "../../i18n.js";
import { choice } from "./choice.js";
import { formula, light } from "./explanation.js";
import { attention } from "./formulas.js";
import { agree } from "./head_numbers.js";
import { figure, weightFigure } from "./numbers.js";
import { dotStep, valuesStep } from "./vector_steps.js";
import { projectStep } from "./project_step.js";

/** Each step's name in the formula, its title and its explanation, and the column of the row's table that it makes. */
export const STEPS = [
  { name: "dot", title: "zoom.dot", text: "zoom.dot.text", column: 0 },
  { name: "scale", title: "zoom.scale", text: "zoom.scale.text", column: 1 },
  { name: "mask", title: "zoom.mask", text: "zoom.mask.text", column: 2 },
  { name: "softmax", title: "zoom.softmax", text: "zoom.softmax.text", column: 3 },
  { name: "values", title: "zoom.values", text: "zoom.values.text", column: 3 },
  { name: "project", title: "zoom.project", text: "zoom.project.text", column: 3 },
];

/**
 * @param {import("./zoom.js").Scene} scene
 * @param {number} width D, of a head
 * @param {(step: number) => void} onStep
 */
export function attentionSteps(scene, width, onStep) {
  const panels = [dotStep(scene, width), scaleStep(), maskStep(), softmaxStep(), valuesStep(scene, width), projectStep(scene)];
  const items = STEPS.map((step, i) =>
    el("button", { type: "button", class: "zoom-step" }, el("span", { class: "zoom-index" }, i + 1), t(step.title)),
  );
  const steps = choice(el("div", { class: "zoom-steps" }, items), items, t("zoom.steps"), onStep);
  const equations = formula(attention());
  const text = el("p", { "aria-live": "polite" });
  const inside = el("div", { class: "zoom-panel" });
  const node = el("section", { class: "zoom-computation", "aria-label": t("zoom.steps") }, steps.node, equations, text, inside);
  let shown = -1;
  const show = (head, query, key, step) => {
    if (step !== shown) {
      steps.show(step);
      light(equations, STEPS[step].name);
      text.textContent = t(STEPS[step].text);
      inside.replaceChildren(panels[step].node);
      shown = step;
    }
    panels[step].show(head, query, key);
  };
  return { node, show };
}

/** A line of numbers, and a line of words below it. */
function lines() {
  const numbers = el("p", { class: "zoom-numbers" });
  const words = el("p", { class: "zoom-note" });
  return { node: el("div", null, numbers, words), numbers, words };
}

function scaleStep() {
  const { node, numbers, words } = lines();
  const show = (head, query, key) => {
    const product = head.product(query, key);
    const root = Math.sqrt(head.width);
    numbers.textContent = `${figure(product)} / √${head.width} = ${figure(product)} / ${figure(root, 2)} = ${figure(product / root)}`;
    words.textContent = "";
  };
  return { node, show };
}

function maskStep() {
  const { node, numbers, words } = lines();
  const show = (head, query, key) => {
    const scaled = head.scaled(query, key);
    const score = head.scores(query)[key];
    numbers.textContent = score === -Infinity ? `${figure(scaled)} → −∞` : `${figure(scaled)} + 0 = ${figure(score)}`;
    const changed = score !== -Infinity && !agree(scaled, score);
    const reason = changed ? "zoom.replaced" : score !== -Infinity ? "zoom.kept" : key > query ? "zoom.later" : "zoom.taken_out";
    words.textContent = t(reason, { query, key });
  };
  return { node, show };
}

function softmaxStep() {
  const { node, numbers, words } = lines();
  const show = (head, query, key) => {
    const { largest, sum } = head.softmax(query);
    const score = head.scores(query)[key];
    const weight = head.weights(query)[key];
    const power = Math.exp(score - largest);
    const [below, result] = [figure(sum), weightFigure(weight)];
    numbers.textContent = `exp(${figure(score)} − ${bracket(largest)}) / ${below} = ${weightFigure(power)} / ${below} = ${result}`;
    words.textContent = t(agree(power / sum, weight) ? "zoom.row_sum" : "zoom.replaced", {
      query,
      largest: figure(largest),
    });
  };
  return { node, show };
}

const bracket = (x) => (x < 0 ? `(${figure(x)})` : figure(x));
