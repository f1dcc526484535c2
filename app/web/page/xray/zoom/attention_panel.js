/** A block's attention: its heads as small maps, one of them large, beside it what attention is or, one level deeper, its steps. */

import { el } from "../../dom.js";
import { t } from "../../i18n.js";
import { STEPS, attentionSteps } from "./attention_steps.js";
import { explanation } from "./explanation.js";
import { attention } from "./formulas.js";
import { Head } from "./head_numbers.js";
import { headGallery } from "./heads.js";
import { onTheme } from "./map.js";
import { figure, weightFigure } from "./numbers.js";
import { pairMap } from "./pair.js";
import { rowTable } from "./row_table.js";
import { place } from "./tokens.js";

/**
 * @param {import("./zoom.js").Scene} scene
 * @param {import("./activations.js").Activations} block
 * @param {Record<string, (number | null)[]>} scores of the heads
 * @param {(choice: Partial<import("./zoom.js").View>) => void} choose
 */
export function attentionPanel(scene, block, scores, choose) {
  const heads = Array.from({ length: block.hook_q.shape[1] }, (_, head) => new Head(block, head));
  let view = null;
  const gallery = headGallery(block, scores, (head) => choose({ head }));
  const map = pairMap(scene.tokens, block, scene.layer, {
    onChoose: (query, key) => choose({ position: query, key }),
    onHover: (query, key) => pair.show(heads[view.head], query, key, view),
    onLeave: () => show(view),
  });
  const pair = pairViews(scene, heads[0].width, map, choose);
  const show = (next) => {
    view = next;
    gallery.show(view.head);
    pair.show(heads[view.head], view.position, view.key, view);
  };
  const repaint = () => [gallery, map].forEach((painted) => painted.repaint());
  const node = el(
    "div",
    { class: "zoom-attention" },
    gallery.node,
    el("p", { class: "zoom-note zoom-heads-note" }, t("zoom.heads.note")),
    legend(),
    el("div", { class: "zoom-columns" }, el("div", { class: "zoom-left" }, map.node, pair.row), pair.node),
  );
  return { node, picture: map.picture, show, placed: gallery.repaint, ended: onTheme(repaint) };
}

/** All that shows one pair: the map's cross, the two lists, a sentence, the steps and the row. */
function pairViews(scene, width, map, choose) {
  const told = el("p", { id: "zoom-pair", class: "zoom-pair" });
  const lists = pairLists(scene.tokens, choose);
  const steps = attentionSteps(scene, width, (step) => choose({ step }));
  const row = rowTable(scene.tokens, (key) => choose({ key }));
  const deeper = el("button", { type: "button", class: "primary", onclick: () => choose({ level: "head" }) }, t("zoom.deeper"));
  const about = el("div", null, explanation(t("zoom.attention"), t("zoom.attention.text"), attention()), deeper);
  map.node.onfocus = () => told.setAttribute("aria-live", "polite"); // what the arrows lead to; a hovering mouse tells nothing
  map.node.onblur = () => told.setAttribute("aria-live", "off");
  let shown = "";
  const show = (head, query, key, { level, step }) => {
    const wanted = [head.head, query, key, level, step].join();
    if (wanted === shown) return;
    shown = wanted;
    const isDeep = level === "head";
    map.show(head.head, query, key);
    lists.show(query, key);
    told.textContent = sentence(scene.tokens, head, query, key);
    about.hidden = isDeep;
    steps.node.hidden = row.node.hidden = !isDeep;
    if (!isDeep) return;
    steps.show(head, query, key, step);
    row.show(head, query, key, STEPS[step].column);
  };
  return { node: el("div", { class: "zoom-side" }, lists.node, told, about, steps.node), row: row.node, show };
}

function sentence(tokens, head, query, key) {
  const score = head.scores(query)[key];
  const names = { query: place(tokens, query), key: place(tokens, key) };
  if (score === -Infinity) return t("zoom.pair_masked", names);
  return t("zoom.pair", { ...names, score: figure(score), weight: weightFigure(head.weights(query)[key]) });
}

/** The pair as two lists, for a finger and for a screen reader. */
function pairLists(tokens, choose) {
  const list = (onchange) =>
    el(
      "select",
      { onchange },
      tokens.map((_, i) => el("option", { value: i }, place(tokens, i))),
    );
  const query = list(() => choose({ position: Number(query.value) }));
  const key = list(() => choose({ key: Number(key.value) }));
  const node = el("div", { class: "row" }, el("label", null, t("zoom.query"), query), el("label", null, t("zoom.key"), key));
  const show = (chosenQuery, chosenKey) => {
    query.selectedIndex = chosenQuery;
    key.selectedIndex = chosenKey;
  };
  return { node, show };
}

/** The scale of the maps, and what the hatching is. */
function legend() {
  const shades = [0, 0.05, 0.25, 0.5, 1].map((weight) =>
    el("span", null, el("i", { class: "zoom-shade", style: { "--strength": Math.sqrt(weight) } }), String(weight)),
  );
  return el(
    "p",
    { class: "zoom-legend" },
    t("zoom.weight"),
    shades,
    el("span", null, el("i", { class: "zoom-shade zoom-masked" }), t("zoom.masked")),
  );
}
