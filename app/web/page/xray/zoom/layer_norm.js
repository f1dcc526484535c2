/** LayerNorm of one token, step by step: the C features before, less their mean, by their deviation, with weight and bias. */

import { el } from "../../dom.js";
import { t } from "../../i18n.js";
import { explanation, light } from "./explanation.js";
import { layerNorm } from "./formulas.js";
import { histogramFigure } from "./histogram.js";
import { deviation, mean } from "./numbers.js";

/** What goes into each LayerNorm. */
const INPUT = { ln1: "hook_resid_pre", ln2: "hook_resid_mid", ln_final: "hook_resid_post" };
const REACH = 4; // deviations to each side of the mean that a histogram shows

/**
 * @param {import("./zoom.js").Scene} scene
 * @param {import("./activations.js").Activations} block
 * @param {"ln1" | "ln2" | "ln_final"} name
 */
export function layerNormPanel(scene, block, name) {
  const mode = scene.isAblated ? modeOf(scene.ablations, name, scene.layer) : null;
  const titles = [
    ["before", "zoom.ln.before"],
    ["centred", "zoom.ln.centred"],
    ["scaled", "zoom.ln.scaled"],
    ["weighted", "zoom.ln.weighted"],
  ];
  const figures = titles.map(([part, key]) => ({ part, ...histogramFigure(t(key)) }));
  const about = explanation(t("zoom.ln"), t("zoom.ln.text", { size: block[INPUT[name]].shape[1] }), layerNorm());
  for (const { part, node } of figures) {
    node.tabIndex = 0;
    node.onpointerenter = node.onfocus = () => light(about, part);
    node.onpointerleave = node.onblur = () => light(about, "");
  }
  const left = mode && el("p", { class: "notice" }, t(mode === "identity" ? "zoom.ln.identity" : "zoom.ln.mean_only"));
  const node = el(
    "div",
    null,
    about,
    left,
    el(
      "div",
      { class: "zoom-figures" },
      figures.map((each) => each.node),
    ),
  );
  const show = ({ position }) => {
    const vectors = steps(block, name, position, mode);
    const bounds = ranges(vectors);
    figures.forEach((figure, i) => {
      figure.node.hidden = !vectors[i];
      if (vectors[i]) figure.show(vectors[i], ...bounds[i]);
    });
  };
  return { node, show };
}

/**
 * The four vectors; null for a step that an ablation leaves out.
 * @param {import("./activations.js").Activations} block @param {"identity" | "mean_only" | null} mode
 */
export function steps(block, name, position, mode = null) {
  const before = block[INPUT[name]].row(position);
  const weighted = block[`${name}.hook_normalized`].row(position);
  if (mode === "identity") return [before, null, null, null];
  const centre = mean(before);
  const centred = before.map((x) => x - centre);
  const scale = block[`${name}.hook_scale`].row(position)[0];
  return [before, centred, mode ? null : centred.map((x) => x / scale), weighted];
}

/** Each histogram's range: that before the mean is taken and that after share one, so that the shift is seen. */
function ranges([before, , scaled, weighted]) {
  const reach = REACH * deviation(before) || 1;
  const centre = mean(before);
  const shared = [Math.min(centre, 0) - reach, Math.max(centre, 0) + reach];
  return [shared, shared, around(scaled), around(weighted)];
}

function around(values) {
  if (!values) return null;
  const centre = mean(values);
  const reach = REACH * deviation(values) || 1;
  return [centre - reach, centre + reach];
}

/** @param {any[]} ablations @returns {"identity" | "mean_only" | null} the last that is about this LayerNorm */
function modeOf(ablations, name, layer) {
  const isThis = (one) =>
    one.kind === "layer_norm" && one.name === name && (one.layer == null || [one.layer].flat().includes(layer));
  return ablations.findLast(isThis)?.mode ?? null;
}
