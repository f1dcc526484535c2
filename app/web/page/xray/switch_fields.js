/** The fields of the switches' form, and how their values become an ablation of /v1/inspect. */

import { el } from "../dom.js";
import { t } from "../i18n.js";

const everywhere = (layer) => (layer === null ? {} : { layer });

/** Of each kind: its words, the fields it needs, and the ablation that they make. */
export const FORMS = {
  no_residual: {
    label: () => t("xray.form.no_residual"),
    fields: ["branch", "layer"],
    ablation: ({ branch, layer }) => ({ kind: "no_residual", branch, ...everywhere(layer) }),
  },
  layer_norm: {
    label: () => t("xray.form.layer_norm"),
    fields: ["norm", "normMode", "layer"],
    ablation: ({ norm, normMode, layer }) => ({
      kind: "layer_norm",
      name: norm,
      mode: normMode,
      ...(norm !== "ln_final" && everywhere(layer)),
    }),
  },
  head: {
    label: () => t("xray.form.head"),
    fields: ["block", "head", "mode"],
    ablation: ({ block, head, mode }) => ({ kind: "head", layer: block, head, mode }),
  },
  mlp: {
    label: () => t("xray.form.mlp"),
    fields: ["layer", "mode"],
    ablation: ({ layer, mode }) => ({ kind: "mlp", ...everywhere(layer), mode }),
  },
  attention_window: {
    label: () => t("xray.form.window"),
    fields: ["size", "layer"],
    ablation: ({ size, layer }) => ({ kind: "attention_window", ...everywhere(layer), size }),
  },
  attention_position: {
    label: () => t("xray.form.position"),
    fields: ["position", "layer"],
    ablation: ({ position, layer }) => ({ kind: "attention_position", ...everywhere(layer), position }),
  },
  positions: {
    label: () => t("xray.form.positions"),
    fields: ["order"],
    ablation: ({ order }) => ({ kind: "positions", mode: order }),
  },
  steer: {
    label: () => t("xray.form.steer"),
    fields: ["token", "scale", "block"],
    ablation: ({ token, scale, block }) => ({ kind: "steer", name: `blocks.${block}.hook_resid_pre`, token, scale }),
  },
  patch: {
    label: () => t("xray.form.patch"),
    fields: ["prompt", "block"],
    ablation: ({ prompt, block }) => ({ kind: "patch", name: `blocks.${block}.hook_resid_pre`, prompt }),
  },
};

/** @param {{layers: number, heads: number}} sizes */
export function makeFields({ layers, heads }) {
  const numbers = (count) => Array.from({ length: count }, (_, i) => [i, String(i)]);
  const mode = [
    ["zero", t("xray.words.zero")],
    ["mean", t("xray.words.mean")],
  ];
  return {
    branch: select("branch", t("xray.form.branch"), [
      ["attention", t("xray.form.attention")],
      ["mlp", "MLP"],
    ]),
    layer: select("layer", t("xray.form.layer"), [["", t("xray.words.all")], ...numbers(layers)], (value) =>
      value === "" ? null : Number(value),
    ),
    block: select("block", t("xray.form.layer"), numbers(layers), Number),
    head: select("head", t("xray.form.head_number"), numbers(heads), Number),
    mode: select("mode", t("xray.form.how"), mode),
    norm: select("norm", t("xray.form.norm"), [
      ["ln1", "LN1"],
      ["ln2", "LN2"],
      ["ln_final", "LN_f"],
    ]),
    normMode: select("norm-mode", t("xray.form.how"), [
      ["identity", t("xray.form.identity")],
      ["mean_only", t("xray.form.mean_only")],
    ]),
    order: select("order", t("xray.form.how"), [
      ["none", t("xray.form.left_out")],
      ["shuffled", t("xray.form.shuffled")],
    ]),
    size: number("size", t("xray.form.size"), { min: 1, value: 4 }),
    position: number("position", t("xray.form.position_number"), { min: 0, value: 0 }),
    scale: number("scale", t("xray.form.scale"), { value: 8, step: "any" }),
    token: text("token", t("xray.form.token"), " sea"),
    prompt: text("prompt", t("xray.form.prompt"), ""),
  };
}

function select(name, label, options, read = (value) => value) {
  const input = el(
    "select",
    { id: `xray-field-${name}` },
    options.map(([value, words]) => el("option", { value }, words)),
  );
  return { node: labelled(input, label), value: () => read(input.value), set: (value) => (input.value = String(value)) };
}

function number(name, label, limits) {
  const input = el("input", { type: "number", id: `xray-field-${name}`, required: true, ...limits });
  return {
    node: labelled(input, label),
    value: () => Number(input.value),
    set: (value) => (input.value = String(value)),
  };
}

function text(name, label, value) {
  const input = el("input", { type: "text", id: `xray-field-${name}`, required: true, value, autocomplete: "off" });
  return { node: labelled(input, label), value: () => input.value };
}

const labelled = (input, label) => el("label", { for: input.id }, label, " ", input);
