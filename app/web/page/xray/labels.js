/** The words of the flow: names of its parts, the numbers of the chosen block's LayerNorms, and the logit lens along the way. */

import { svg } from "../dom.js";
import { t } from "../i18n.js";
import { HALF, blockX } from "./geometry.js";
import { brief, expectedAfterLast, percent, plain } from "./numbers.js";
import { write } from "./write.js";

const NAMES_END = 92;

/** @param {import("./geometry.js").Layout} at */
export function makeLabels(at, answer, run) {
  const text = (attributes, words = "") => svg("text", attributes, words);
  const name = (key, y) => text({ class: "name", x: NAMES_END, y, "text-anchor": "end" }, t(key));
  const expected = expectedAfterLast(answer);
  const lens = Array.from({ length: at.layers + 1 }, (_, i) => lensLabel(at, i));
  const parts = {
    at,
    run,
    lens,
    rank: text({ class: "name", x: NAMES_END, y: at.lens + 33, "text-anchor": "end" }),
    rankNames: { came: t("xray.flow.rank"), last: t("xray.flow.rank_of", { token: brief(expected.text, 7) }) },
    last: answer.tokens.length - 1,
    note: text({ class: "note", x: at.left + 4, y: at.river - 98 }),
    gates: [text({ class: "number small", "text-anchor": "middle" }), text({ class: "number small", "text-anchor": "middle" })],
    final: text({ class: "number small", x: at.end + 16, y: at.river - HALF - 12, "text-anchor": "middle" }),
  };
  const names = [
    name("xray.flow.token", at.above + 38),
    name("xray.flow.position", at.below - 30),
    name("xray.flow.stream", at.river + 4),
    name("xray.flow.attention", at.above - 8),
    name("xray.flow.mlp", at.below + 16),
    name("xray.flow.lens", at.lens),
    name("xray.flow.probability", at.lens + 17),
    parts.rank,
  ];
  const node = svg(
    "g",
    { "aria-hidden": "true" },
    names,
    lens.flatMap((label) => Object.values(label)),
    parts.gates,
    parts.final,
    parts.note,
  );
  return { node, update: (view, factor) => update(parts, view, factor) };
}

function lensLabel(at, i) {
  const attributes = { x: at.left + i * at.step, "text-anchor": "middle" };
  return {
    token: svg("text", { ...attributes, y: at.lens, class: "lens-token" }, ""),
    probability: svg("text", { ...attributes, y: at.lens + 17, class: "number" }, ""),
    rank: svg("text", { ...attributes, y: at.lens + 33, class: "number soft" }, ""),
  };
}

function update({ at, run, lens, gates, final, note, rank, rankNames, last }, { layer, position }, factor) {
  const { lens: found, layer_norm: norms } = run.summaries;
  const length = Math.floor(at.step / 8);
  lens.forEach((label, i) => {
    const best = found.top[i][position][0];
    write(label.token, brief(best.text, length));
    write(label.probability, percent(best.probability));
    write(label.rank, `#${found.rank[i][position] + 1}`);
  });
  write(rank, position === last ? rankNames.last : rankNames.came);
  const x = blockX(at, layer);
  place(
    gates[0],
    x.gate1 + at.step * 0.1,
    at.above - 16,
    told(norms.ln1.mean[layer][position], norms.ln1.deviation[layer][position]),
  );
  place(
    gates[1],
    x.gate2 + at.step * 0.1,
    at.below + 24,
    told(norms.ln2.mean[layer][position], norms.ln2.deviation[layer][position]),
  );
  write(final, `σ ${norms.ln_final.deviation[position].toFixed(2)}`);
  write(note, factor === 1 ? "" : t("xray.flow.off_scale", { factor: factor.toFixed(1) }));
}

const told = (mean, deviation) => `μ ${plain(mean)} σ ${plain(deviation)}`;

function place(node, x, y, words) {
  node.setAttribute("x", x.toFixed(1));
  node.setAttribute("y", y.toFixed(1));
  write(node, words);
}
