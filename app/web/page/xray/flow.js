/**
 * The whole way of a text through the network as one picture. Knows an answer and the choice of a place in it; asks nothing.
 *
 * Everything is built once an answer. `update` changes attributes of what is there and is cheap enough for every frame.
 */

import { svg } from "../dom.js";
import { t } from "../i18n.js";
import { makeChannel } from "./channel.js";
import { makeField } from "./field.js";
import { blockX, layerAt, layout, positionAt } from "./geometry.js";
import { makeLabels } from "./labels.js";
import { scaleOf, streamAt } from "./numbers.js";
import { makeOutcome } from "./outcome.js";

/**
 * @param {{answer: object, run: object, other: object | null}} given the run that is drawn, and one to compare it with
 * @param {{onSelect: (choice: {layer?: number, position?: number}) => void, onOpen: (layer: number) => void}} events
 */
export function makeFlow({ answer, run, other }, events) {
  const { tokens } = answer;
  const layers = run.summaries.norms.resid_post.length;
  const at = layout(tokens.length, layers);
  const scale = scaleOf(run);
  const parts = {
    at,
    run,
    other,
    scale,
    tokens,
    channel: makeChannel(at),
    field: makeField(at, tokens, run, scale),
    labels: makeLabels(at, answer, run),
    outcome: makeOutcome(at),
    blocks: Array.from({ length: layers }, (_, layer) => makeBlock(at, layer)),
    chosen: svg("rect", { class: "block-chosen", y: 0, width: at.step, height: at.height, rx: 6, "aria-hidden": "true" }),
  };
  const node = svg(
    "svg",
    { class: "flow", viewBox: `0 0 ${at.width} ${at.height}`, role: "group", "aria-label": t("xray.flow.label") },
    parts.chosen,
    parts.field.node,
    parts.channel.node,
    parts.labels.node,
    parts.outcome.node,
    parts.blocks,
  );
  listen(node, parts, events);
  return {
    node,
    at,
    update: (view) => update(parts, view),
    focus: (layer) => parts.blocks[layer].focus(),
    reveal: (layer) => reveal(node.parentElement, at, layer),
  };
}

/** Bring a block into what is seen of a picture that is wider than its place, as on a phone. */
function reveal(place, at, layer) {
  const { start, end } = blockX(at, layer);
  place.scrollLeft = ((start + end) / 2 / at.width) * place.scrollWidth - place.clientWidth / 2;
}

/** What makes a block a thing to press: its place, its number, and its words. */
function makeBlock(at, layer) {
  const { start } = blockX(at, layer);
  const label = t("xray.flow.block", { layer });
  return svg(
    "g",
    { class: "block", role: "button", tabindex: -1, "aria-label": label, "data-layer": layer },
    svg("rect", { class: "target", x: start, y: 0, width: at.step, height: at.height, rx: 6 }),
    svg("text", { class: "number", x: start + at.step / 2, y: 15, "text-anchor": "middle", "aria-hidden": "true" }, layer),
  );
}

function update(parts, view) {
  const { at, run, other } = parts;
  const { layer, position } = view;
  parts.chosen.setAttribute("x", String(blockX(at, layer).start));
  parts.blocks[parts.layer ?? 0].setAttribute("tabindex", "-1");
  parts.blocks[layer].setAttribute("tabindex", "0");
  parts.layer = layer;
  const stream = streamAt(run, position);
  parts.field.update(view);
  parts.channel.update(stream, ownScale(parts.scale, stream), other && streamAt(other, position));
  parts.labels.update(view, ownScale(parts.scale, stream) > parts.scale ? ownScale(parts.scale, stream) / parts.scale : 1);
  parts.outcome.update(view, run.summaries.lens.top.at(-1)[position]);
}

/** The first position of many a GPT-2 is off every scale: then its river is drawn by a scale of its own, and a note says so. */
function ownScale(scale, stream) {
  const largest = Math.max(...stream.points, ...stream.attention, ...stream.mlp);
  return largest > 1.15 * scale ? largest : scale;
}

function listen(node, { at }, { onSelect, onOpen }) {
  const place = (event) => {
    const box = node.getBoundingClientRect(),
      unit = at.width / box.width;
    const [x, y] = [(event.clientX - box.left) * unit, (event.clientY - box.top) * unit];
    const position = positionAt(at, y);
    const inside = x >= at.left && x <= at.end;
    return { ...(inside && { layer: layerAt(at, x) }), ...(position !== null && x <= at.end && { position }) };
  };
  let wasChosen = true; // a finger has no hover: its first tap on a block chooses it, its second opens it
  node.addEventListener("pointerdown", (event) => {
    const { layer } = place(event);
    wasChosen = event.pointerType === "mouse" || node.querySelector('.block[tabindex="0"]').dataset.layer === String(layer);
    onSelect(place(event));
  });
  node.addEventListener("pointermove", (event) => event.pointerType === "mouse" && onSelect(place(event)));
  node.addEventListener("click", (event) => {
    const { layer } = place(event);
    if (layer !== undefined && wasChosen && event.detail) onOpen(layer);
  });
  node.addEventListener("focusin", (event) => onSelect({ layer: Number(event.target.dataset.layer) }));
}
