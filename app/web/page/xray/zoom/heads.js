/** All heads of a block as small maps, each with what it mostly does; one of them is chosen. */

import { el } from "../../dom.js";
import { t } from "../../i18n.js";
import { choice } from "./choice.js";
import { paint } from "./map.js";
import { percent } from "./numbers.js";

/**
 * @param {import("./activations.js").Activations} block
 * @param {Record<string, (number | null)[]>} scores of this block's heads
 * @param {(head: number) => void} onChoose
 */
export function headGallery(block, scores, onChoose) {
  const [numHeads, size] = block.hook_pattern.shape;
  const canvases = Array.from({ length: numHeads }, () => el("canvas", { class: "zoom-map", "aria-hidden": "true" }));
  const items = canvases.map((canvas, head) =>
    el(
      "button",
      { type: "button", class: "zoom-head" },
      el("strong", null, t("zoom.head", { head })),
      el("span", { class: "zoom-masked" }, canvas),
      summary(scores, head),
    ),
  );
  const gallery = choice(el("div", { class: "zoom-gallery" }, items), items, t("zoom.heads"), onChoose);
  const repaint = () =>
    canvases.forEach((canvas, head) => paint(canvas, block.hook_pattern.under(head), block.hook_attn_scores.under(head), size));
  return { ...gallery, repaint };
}

/** What share of its weight a head gives, over the text's queries, to the three places that have a name. */
function summary(scores, head) {
  const told = [
    ["zoom.previous", scores.previous[head]],
    ["zoom.first", scores.first[head]],
    ["zoom.induction", scores.induction[head]],
  ];
  return el(
    "span",
    { class: "zoom-summary" },
    told.map(([key, value]) => [el("span", null, t(key)), el("span", null, share(value))]),
  );
}

/** @param {number | null} value null where no token occurs twice */
const share = (value) => (value === null ? "–" : percent(value));
