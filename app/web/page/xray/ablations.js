/** The switches as data: how they are added to a list, found in it, and said in words. Knows no document. */

import { t } from "../i18n.js";

const isNone = (value) => value === undefined || value === null;
/** One ablation in one form, in whatever order its fields come and whether or not "all" is spelt out as null. */
const form = (one) =>
  JSON.stringify(
    Object.entries(one)
      .filter(([, value]) => !isNone(value))
      .sort(),
  );
const same = (a, b) => form(a) === form(b);

/** The list with one more, or without it if it is there. */
export function toggled(ablations, one) {
  const without = ablations.filter((other) => !same(other, one));
  return without.length < ablations.length ? without : [...ablations, one];
}

export const includes = (ablations, one) => ablations.some((other) => same(other, one));

/** Whether an ablation takes out a head, or without a head the MLP, of a layer: by its number, in a list, or with all of them. */
function covers(one, layer, head) {
  const has = (given, index) => isNone(given) || [given].flat().includes(index);
  if (head === undefined) return one.kind === "mlp" && has(one.layer, layer);
  return one.kind === "head" && has(one.layer, layer) && has(one.head, head);
}

/** Whether a head, or without a head the MLP, of a layer is switched off; whichever way. */
export const isOff = (ablations, layer, head) => ablations.some((one) => covers(one, layer, head));

/**
 * The list with a head or MLP switched off, or on again in whichever way it was off.
 * @param {object[]} ablations @param {object} one of a single head or MLP @param {{layers: number, heads: number}} sizes
 */
export function partToggled(ablations, one, sizes) {
  const { layer, head } = one;
  if (!isOff(ablations, layer, head)) return [...ablations, one];
  return ablations.flatMap((other) => (covers(other, layer, head) ? rest(other, layer, head, sizes) : [other]));
}

/** What an ablation takes out besides one part. */
function rest(one, layer, head, { layers, heads }) {
  const others = (given, count, gone) =>
    (isNone(given) ? [...Array(count).keys()] : [given].flat()).filter((index) => index !== gone);
  const single = (indices) => (indices.length === 1 ? indices[0] : indices);
  const otherLayers = others(one.layer, layers, layer);
  const otherHeads = head === undefined ? [] : others(one.head, heads, head);
  return [
    ...(otherLayers.length ? [{ ...one, layer: single(otherLayers) }] : []),
    ...(otherHeads.length ? [{ ...one, layer, head: single(otherHeads) }] : []),
  ];
}

// ---- in words

const listed = (indices) => [indices].flat().join(", ");
const isOne = (indices) => !Array.isArray(indices) || indices.length === 1;

function blocks({ layer }) {
  if (isNone(layer)) return t("xray.words.all");
  return isOne(layer) ? t("xray.words.block", { layer: listed(layer) }) : t("xray.words.blocks", { layer: listed(layer) });
}

function heads({ head }) {
  if (isNone(head)) return t("xray.words.all_heads");
  return isOne(head) ? t("xray.words.head_number", { head: listed(head) }) : t("xray.words.heads", { head: listed(head) });
}

const headsOf = (one) => t("xray.words.heads_of", { heads: heads(one), where: blocks(one) });
const where = (one) => (isNone(one.head) ? blocks(one) : headsOf(one));
const mode = ({ mode: name }) => (name === "mean" ? t("xray.words.mean") : t("xray.words.zero"));
const quoted = (text) => (text.length > 18 ? `${text.slice(0, 17)}…` : text);

/** Where a patch or a direction goes in: the stream before a block in words, all else by its hook's name. */
function place({ name, head }) {
  const block = /^blocks\.(\d+)\.hook_resid_pre$/.exec(name)?.[1];
  const whole = block === undefined ? String(name) : t("xray.words.stream", { block });
  return isNone(head) ? whole : t("xray.words.heads_of", { heads: heads({ head }), where: whole });
}

function patch(one) {
  if (isNone(one.prompt)) return t("xray.words.patch_values", { place: place(one) });
  return t("xray.words.patch", { place: place(one), text: quoted(String(one.prompt)) });
}

function steer(one) {
  const values = { place: place(one), scale: one.scale ?? 1 };
  if (!isNone(one.direction)) return t("xray.words.steer_direction", values);
  const towards = isNone(one.token) ? `${quoted(String(one.plus))}” − “${quoted(String(one.minus))}` : String(one.token);
  return t("xray.words.steer", { ...values, token: towards });
}

const NORMS = { ln1: "LN1", ln2: "LN2", ln_final: "LN_f" };
const WORDS = {
  no_residual: (one) =>
    one.branch === "attention"
      ? t("xray.words.no_residual_attention", { where: where(one) })
      : t("xray.words.no_residual_mlp", { where: where(one) }),
  layer_norm: (one) => {
    const name = NORMS[one.name] ?? one.name;
    const whole = one.name === "ln_final" ? name : t("xray.words.norm_in", { name, where: where(one) });
    return one.mode === "mean_only" ? t("xray.words.norm_mean", { norm: whole }) : t("xray.words.norm_identity", { norm: whole });
  },
  head: (one) => t("xray.words.part", { part: headsOf(one), mode: mode(one) }),
  mlp: (one) => t("xray.words.mlp", { where: where(one), mode: mode(one) }),
  attention_window: (one) => t("xray.words.window", { size: one.size, where: where(one) }),
  attention_position: (one) => t("xray.words.position", { position: one.position, where: where(one) }),
  positions: (one) => (one.mode === "none" ? t("xray.words.positions_none") : t("xray.words.positions_shuffled")),
  patch,
  steer,
};

/** A switch in words; one that this page does not know, as it came by a link, as its JSON. */
export const words = (one) => WORDS[one.kind]?.(one) ?? JSON.stringify(one);
