/**
 * What each head and MLP gives straight to the logit of one token: a grid of signed numbers, whose cells switch their part off.
 * Blue adds and orange takes away; the colours differ to every eye, and each number has its sign.
 */

import { clear, el } from "../dom.js";
import { t } from "../i18n.js";
import { isOff } from "./ablations.js";
import { reach, signed } from "./numbers.js";
import { write } from "./write.js";

/**
 * @param {{onToggle: (ablation: object, sizes: {layers: number, heads: number}) => void, onTarget: (target: {target: number | null, token: number | null}) => void}} events
 */
export function makeAttribution({ onToggle, onTarget }) {
  const caption = el("p", { class: "reading" });
  const table = el("table", { class: "grid" });
  const mode = el(
    "select",
    { id: "xray-mode" },
    el("option", { value: "zero" }, t("xray.attribution.zero")),
    el("option", { value: "mean" }, t("xray.attribution.mean")),
  );
  const token = el("select", { id: "xray-token" });
  const here = el("button", { type: "button", id: "xray-explain" });
  const parts = { caption, table, token, here, position: 0 };
  here.onclick = () => onTarget({ target: parts.position, token: null });
  token.onchange = () => onTarget({ target: parts.target, token: Number(token.value) });
  table.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) onToggle(ablationOf(button.dataset, mode.value), parts.sizes);
  });
  table.addEventListener("keydown", (event) => move(table, event));
  const controls = el(
    "div",
    { class: "row" },
    el("label", { for: "xray-token" }, t("xray.attribution.token")),
    token,
    here,
    el("label", { for: "xray-mode" }, t("xray.attribution.click")),
    mode,
  );
  const node = el(
    "div",
    null,
    controls,
    caption,
    el("div", { class: "scroller", tabIndex: 0, role: "group", "aria-label": t("xray.attribution.title") }, table),
  );
  return { node, fill: (run, ablations) => fill(parts, run, ablations), update: (view) => update(parts, view) };
}

const ablationOf = ({ layer, head }, mode) =>
  head === undefined
    ? { kind: "mlp", layer: Number(layer), mode }
    : { kind: "head", layer: Number(layer), head: Number(head), mode };

function fill(parts, run, ablations) {
  const found = run.summaries.attribution;
  const most = reach([...found.heads, found.mlps]);
  const cell = (value, layer, head) => el("td", null, part(value, most, layer, head, ablations));
  const rows = found.heads.map((heads, layer) =>
    el(
      "tr",
      null,
      el("th", { scope: "row" }, layer),
      heads.map((value, head) => cell(value, layer, head)),
      cell(found.mlps[layer], layer),
      el("td", { class: "number" }, signed(found.attention_biases[layer])),
    ),
  );
  const names = [t("xray.attribution.layer"), ...found.heads[0].map((_, head) => head), "MLP", t("xray.attribution.bias")];
  const head = el(
    "thead",
    null,
    el(
      "tr",
      null,
      names.map((name) => el("th", { scope: "col" }, name)),
    ),
  );
  clear(parts.table).append(
    el("caption", { class: "visually-hidden" }, t("xray.attribution.caption")),
    head,
    el("tbody", null, rows),
  );
  parts.table.querySelector("button").tabIndex = 0;
  parts.target = found.position;
  parts.sizes = { layers: found.heads.length, heads: found.heads[0].length };
  parts.caption.textContent = t("xray.attribution.sum", {
    token: found.token.text.trim(),
    position: found.position,
    logit: signed(found.logit),
    embed: signed(found.embed),
    positional: signed(found.pos_embed),
    bias: signed(found.ln_final_bias),
  });
  fillTokens(parts.token, run, found);
}

function part(value, most, layer, head, ablations) {
  const off = isOff(ablations, layer, head);
  const name =
    head === undefined
      ? t("xray.attribution.mlp", { layer })
      : t("xray.attribution.head", { layer, head });
  return el(
    "button",
    {
      type: "button",
      class: value < 0 ? "negative" : null,
      tabIndex: -1,
      "data-layer": layer,
      "data-head": head ?? null,
      "aria-pressed": String(off),
      "aria-label": `${off ? "×" : signed(value)} ${name}`,
      title: `${name}: ${signed(value, 3)}`,
      style: { "--share": `${Math.round(Math.min(1, Math.abs(value) / most) * 78)}%` },
    },
    off ? "×" : signed(value),
  );
}

/** The likeliest tokens there, and the one that is explained if it is none of them. */
function fillTokens(select, run, found) {
  const best = run.summaries.lens.top.at(-1)[found.position];
  const choice = best.some(({ id }) => id === found.token.id) ? best : [found.token, ...best];
  clear(select).append(
    ...choice.map(({ id, text }) => el("option", { value: id, selected: id === found.token.id }, JSON.stringify(text))),
  );
}

function update(parts, { position }) {
  parts.position = position;
  write(parts.here, t("xray.attribution.here", { position }));
  parts.here.disabled = position === parts.target;
}

function move(table, event) {
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  const cell = event.target.closest("td");
  if (!step || !cell) return;
  event.preventDefault();
  const to = table.rows[cell.parentElement.rowIndex + step[0]]?.cells[cell.cellIndex + step[1]]?.querySelector("button");
  if (!to) return;
  event.target.tabIndex = -1;
  to.tabIndex = 0;
  to.focus();
}
