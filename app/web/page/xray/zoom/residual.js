/** Where a branch meets the stream: a sum of vectors, as the norms before it, of what is added, and after it. */

import { el } from "../../dom.js";
import { t } from "../../i18n.js";
import { explanation } from "./explanation.js";
import { residual } from "./formulas.js";
import { normBars } from "./norm_bars.js";
import { figure } from "./numbers.js";

const BRANCHES = {
  attention: {
    formula: "attn",
    norms: ["resid_pre", "attn_out", "resid_mid"],
    cosine: "attn_cosine",
    names: ["zoom.stream_before", "zoom.all_heads", "zoom.stream_after"],
  },
  mlp: {
    formula: "mlp",
    norms: ["resid_mid", "mlp_out", "resid_post"],
    cosine: "mlp_cosine",
    names: ["zoom.stream_before", "zoom.mlp_out", "zoom.stream_after"],
  },
};

/** @param {import("./zoom.js").Scene} scene @param {"attention" | "mlp"} branch */
export function residualPanel(scene, branch) {
  const { formula, norms, cosine, names } = BRANCHES[branch];
  const bars = normBars(names);
  const told = el("p", { class: "zoom-note" });
  const left = scene.isAblated && leavesOut(scene, branch) && el("p", { class: "notice" }, t("zoom.no_residual"));
  const node = el("div", null, explanation(t("zoom.residual"), t("zoom.residual.text"), residual(formula)), left, bars.node, told);
  const show = ({ position }) => {
    bars.show(norms.map((name) => scene.norms[name][position]));
    told.textContent = t("zoom.cosine", { cosine: figure(scene.norms[cosine][position]) });
  };
  return { node, show };
}

function leavesOut({ ablations, layer }, branch) {
  return ablations.some(
    (one) => one.kind === "no_residual" && one.branch === branch && (one.layer == null || [one.layer].flat().includes(layer)),
  );
}
