/** The switches: a row of the common ones, and a form for all others. Asks nothing itself. */

import { clear, el } from "../dom.js";
import { t } from "../i18n.js";
import { includes } from "./ablations.js";
import { FORMS, makeFields } from "./switch_fields.js";

/** @param {{layers: number, heads: number}} sizes @param {(ablations: object[]) => void} onChange */
export function makeSwitches({ layers, heads }, onChange) {
  const parts = { ablations: [], common: [] };
  const toggle = (list) => {
    const others = parts.ablations.filter((one) => !includes(list, one));
    onChange(list.every((one) => includes(parts.ablations, one)) ? others : [...others, ...list]);
  };
  parts.common = common().map(([name, list]) => ({
    list,
    button: el("button", { type: "button", onclick: () => toggle(list) }, name),
  }));
  const form = makeForm({ layers, heads }, (one) =>
    onChange(includes(parts.ablations, one) ? parts.ablations : [...parts.ablations, one]),
  );
  const node = el(
    "div",
    null,
    el(
      "div",
      { class: "row common", role: "group", "aria-label": t("xray.switches.common") },
      parts.common.map(({ button }) => button),
    ),
    form.node,
  );
  return { node, fill: (ablations) => fill(parts, ablations), update: form.update };
}

/** Whole-network switches that most readers want to see first. */
const common = () => [
  [
    t("xray.switches.no_residuals"),
    [
      { kind: "no_residual", branch: "attention" },
      { kind: "no_residual", branch: "mlp" },
    ],
  ],
  [t("xray.switches.no_norms"), ["ln1", "ln2", "ln_final"].map((name) => ({ kind: "layer_norm", name, mode: "identity" }))],
  [t("xray.switches.no_positions"), [{ kind: "positions", mode: "none" }]],
  [t("xray.switches.no_mlps"), [{ kind: "mlp", mode: "zero" }]],
  [t("xray.switches.window"), [{ kind: "attention_window", size: 1 }]],
];

function makeForm(sizes, onAdd) {
  const fields = makeFields(sizes);
  const kind = el(
    "select",
    { id: "xray-kind" },
    Object.entries(FORMS).map(([name, { label }]) => el("option", { value: name }, label())),
  );
  const places = el("div", { class: "row switch-fields" });
  const show = () => clear(places).append(...FORMS[kind.value].fields.map((name) => fields[name].node));
  kind.onchange = show;
  show();
  const node = el(
    "form",
    { class: "row switch-form" },
    el("label", { for: "xray-kind" }, t("xray.switches.part")),
    kind,
    places,
    el("button", null, t("xray.switches.add")),
  );
  node.onsubmit = (event) => {
    event.preventDefault();
    const values = Object.fromEntries(FORMS[kind.value].fields.map((name) => [name, fields[name].value()]));
    onAdd(FORMS[kind.value].ablation(values));
  };
  const update = ({ layer, position }) => {
    if (!node.contains(document.activeElement)) fields.block.set(layer);
    if (!node.contains(document.activeElement)) fields.position.set(position);
  };
  return { node, update };
}

function fill(parts, ablations) {
  parts.ablations = ablations;
  for (const { button, list } of parts.common)
    button.setAttribute("aria-pressed", String(list.every((one) => includes(ablations, one))));
}
