/** Builds the X-ray tab's parts and puts them in their places. Knows what there is, not what happens. */

import { el } from "../dom.js";
import { t } from "../i18n.js";
import { makeAttribution } from "./attribution.js";
import { makeChances, slider } from "./chances.js";
import { makeCompare } from "./compare.js";
import { makeChips } from "./chips.js";
import { cards, explanation } from "./explain.js";
import { makeLens } from "./lens.js";
import { makeOrder } from "./order.js";
import { makeReading } from "./reading.js";
import { makeTokens } from "./tokens.js";

/** @param {object} events what a reader does, by name; see xray.js */
export function makeView(events) {
  const parts = {
    text: el("textarea", { id: "xray-text", rows: 2, spellcheck: false }),
    go: el("button", { class: "primary" }, t("xray.go")),
    status: el("p", { class: "status", role: "status" }),
    error: el("p", { class: "alert", role: "alert", hidden: true }),
    old: el("p", { class: "hint", hidden: true }, t("xray.old")),
    saves: saveButtons(events),
    crumbs: el("ol", { class: "crumbs" }),
    served: el("p", { class: "hint" }),
    figure: el("div", { class: "figure scroller" }),
    flow: el("div", { class: "flow-level" }),
    zoom: el("div", { class: "zoom-level", hidden: true }),
    switches: el("div"),
    tokens: makeTokens(events.onSelect),
    reading: makeReading(),
    lens: makeLens(events.onSelect),
    compare: makeCompare(events.onRun),
    chips: makeChips(events.onAblations),
    attribution: makeAttribution(events),
    chances: makeChances(events.onChances),
    order: makeOrder(events.onOrder),
    open: el("button", { type: "button", onclick: events.onOpen }),
  };
  parts.layer = slider("xray-layer", t("xray.block"), { min: 0, step: 1 }, (value) => events.onSlide({ layer: value }));
  parts.position = slider("xray-position", t("xray.position"), { min: 0, step: 1 }, (value) => events.onSelect({ position: value }));
  parts.bar = bar(parts.crumbs, [button("xray-link", t("xray.link"), events.onLink), ...parts.saves]);
  parts.root = el(
    "div",
    { class: "xray" },
    form(parts, events),
    parts.error,
    parts.old,
    parts.chips.node,
    parts.bar,
    sections(parts),
    parts.zoom,
  );
  return parts;
}

function form({ text, go, status }, { onText, onGo }) {
  text.oninput = onText;
  text.onkeydown = (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && onGo(event);
  return el(
    "form",
    { class: "ask", onsubmit: onGo },
    el("label", { for: "xray-text" }, t("xray.text")),
    text,
    el("div", { class: "row" }, go, el("span", { class: "hint" }, t("xray.hint")), status),
  );
}

const button = (id, name, onclick) => el("button", { type: "button", id, onclick }, name);
const saveButtons = ({ onSvg, onJson }) => [
  button("xray-svg", t("xray.svg"), onSvg),
  button("xray-json", t("xray.json"), onJson),
];

const bar = (crumbs, buttons) =>
  el(
    "div",
    { class: "bar-row" },
    el("nav", { "aria-label": t("xray.crumbs") }, crumbs),
    el("div", { class: "row tools" }, buttons),
  );

/** A part of the page under its heading. */
const section = (name, title, ...content) =>
  el("section", { class: `part ${name}`, "aria-label": title }, el("h2", null, title), content);

function sections(parts) {
  const sliders = el("div", { class: "slider-row" }, parts.layer.node, parts.position.node, parts.open);
  parts.flow.append(
    section("tokens-part", t("xray.tokens.title"), parts.tokens.node, parts.served),
    section(
      "flow-part",
      t("xray.flow.title"),
      legend(),
      parts.figure,
      el("p", { class: "hint sideways" }, t("xray.flow.sideways")),
      el("p", { class: "hint" }, t("xray.flow.counted")),
      sliders,
      parts.reading.sentence,
      parts.reading.fold,
      cards(),
    ),
    section("switches-part", t("xray.switches.title"), explanation(t("xray.switches.words")), parts.switches, parts.compare.node),
    section("chances-part", t("xray.chances.title"), explanation(t("xray.chances.words"), "temperature"), parts.chances.node),
    section("lens-part", t("xray.lens.title"), explanation(t("xray.lens.words"), "lens"), parts.lens.node),
    section(
      "attribution-part",
      t("xray.attribution.title"),
      explanation(t("xray.attribution.words"), "attribution"),
      parts.attribution.node,
    ),
    section("order-part", t("xray.order.title"), explanation(t("xray.order.words"), "order", "order_post"), parts.order.node),
  );
  parts.flow.hidden = true; // until there is an answer
  return parts.flow;
}

function legend() {
  const entry = (name, words) => el("li", { class: name }, words);
  return el(
    "ul",
    { class: "key-list" },
    entry("stream", t("xray.legend.stream")),
    entry("attention", t("xray.legend.attention")),
    entry("mlp", t("xray.legend.mlp")),
    entry("gate", t("xray.legend.gate")),
    entry("reads", t("xray.legend.reads")),
  );
}
