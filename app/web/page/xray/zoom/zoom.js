/**
 * The X-ray's levels two and three: the inside of a block, and one head of its attention number by number.
 *
 * Knows the answer of /v1/inspect for the whole text, and asks for a block's activations itself, once. Everything after that, whatever
 * position, head, pair or step is shown, changes attributes of what is there.
 */

import { el } from "../../dom.js";
import { onLanguage, t } from "../../i18n.js";
import { Blocks } from "./activations.js";
import { attentionPanel } from "./attention_panel.js";
import { PARTS, blockDiagram } from "./block.js";
import { layerNormPanel } from "./layer_norm.js";
import { mlpPanel } from "./mlp.js";
import { residualPanel } from "./residual.js";
import { tokenStrip } from "./tokens.js";

/**
 * What is shown. `position` is also the query whose row of attention is looked at.
 *
 * @typedef {object} View
 * @property {"flow" | "block" | "head"} level
 * @property {number} layer
 * @property {number} head
 * @property {number} position
 * @property {number} key
 * @property {string} part of the block, one of PARTS
 * @property {number} step of a head's computation, from 0
 * @property {"run" | "ablated"} run with ablations, which of the two
 */

/**
 * What the parts of the picture are made from: one block of one run.
 *
 * @typedef {object} Scene
 * @property {{ text: string }[]} tokens
 * @property {number} layer
 * @property {number} numLayers
 * @property {object[]} ablations
 * @property {boolean} isAblated
 * @property {Record<string, number[]>} norms of this block, by position
 * @property {(head: number) => Promise<import("./activations.js").Tensor>} withoutHead
 * @property {(error: unknown) => string} explain
 */

/**
 * @param {HTMLElement} root
 * @param {{ app: any, answer: any, ablations: object[], onSelect: (choice: Partial<View>) => void } & Partial<View>} given
 *   onSelect is told of each choice made here, hovering aside
 * @returns {{ update: (view: Partial<View> & { answer?: any, ablations?: object[] }) => void, picture: () => SVGSVGElement | null,
 *   destroy: () => void }} picture: what is saved as an SVG, null while it is being computed
 */
export function mountZoom(root, given) {
  const zoom = new Zoom(root, given);
  const end = onLanguage(() => zoom.rebuild());
  return {
    update: (view) => zoom.update(view),
    picture: () => zoom.picture,
    destroy: () => {
      end();
      zoom.end();
    },
  };
}

class Zoom {
  constructor(root, { app, onSelect, ...given }) {
    Object.assign(this, { root, app, onSelect, answer: null, blocks: null });
    /** @type {View} */
    this.view = { level: "block", layer: 0, head: 0, position: Infinity, key: NaN, part: "attention", step: 0, run: "ablated" };
    this.update(given);
  }

  /** Show something else; what is not named stays. */
  update({ answer = this.answer, ablations = this.ablations, ...view }) {
    const told = Object.entries(view).filter(([name, value]) => name in this.view && value !== null && value !== undefined);
    Object.assign(this.view, Object.fromEntries(told));
    if (answer !== this.answer) this.begin(answer, ablations ?? []);
    this.draw();
  }

  /** A new text, or other ablations. */
  begin(answer, ablations) {
    this.blocks?.abort();
    Object.assign(this, { answer, ablations, numLayers: answer.run.summaries.norms.resid_pre.length });
    this.blocks = new Blocks(this.app.client, answer.tokens, ablations, this.numLayers);
    this.frame = null;
  }

  /** Everything anew, in the reader's language. */
  rebuild() {
    this.frame = null;
    this.draw();
  }

  /** A choice made here. @param {Partial<View>} choice */
  choose(choice) {
    this.update(choice);
    this.onSelect(choice);
  }

  end() {
    this.blocks.abort();
    this.panel?.ended?.();
    this.frame = null; // whatever still comes is for nobody
    this.root.replaceChildren();
  }

  draw() {
    this.settle();
    this.frame ??= this.build();
    const { frame, view, isAblated } = this;
    const isDeep = view.level === "head";
    frame.node.classList.toggle("zoom-deep", isDeep);
    const place = { block: view.layer, last: this.numLayers - 1, head: view.head };
    frame.title.textContent = isDeep ? t("zoom.head_title", place) : t("zoom.block_title", place);
    frame.previous.disabled = view.layer === 0;
    frame.next.disabled = view.layer === this.numLayers - 1;
    frame.strip.show(view.position);
    frame.toggle?.setAttribute("aria-pressed", String(isAblated));
    this.drawDiagram(frame, view);
    this.drawPanel(frame, view);
  }

  /** The block's diagram, or the head's map. */
  get picture() {
    return this.view.level === "head" ? (this.panel?.picture ?? null) : this.diagram.picture;
  }

  get isAblated() {
    return Boolean(this.answer.ablated) && this.view.run === "ablated";
  }

  /** Whatever a link says, within what there is. */
  settle() {
    const { view, answer, numLayers } = this;
    const within = (index, count) => Math.min(count - 1, Math.max(0, index));
    view.layer = within(view.layer, numLayers);
    view.position = within(view.position, answer.tokens.length);
    view.key = within(Number.isNaN(view.key) ? view.position - 1 : view.key, answer.tokens.length);
    view.head = within(view.head, answer.run.summaries.attribution.heads[0].length);
    const isThere = PARTS.includes(view.part) && (view.part !== "ln_final" || view.layer === numLayers - 1);
    if (view.level === "head" || !isThere) view.part = "attention";
  }

  build() {
    this.panel?.ended?.();
    Object.assign(this, { panel: null, drawn: "", asked: "" });
    const button = (name, onclick, properties) => el("button", { type: "button", onclick, ...properties }, name);
    const title = el("h2", { class: "zoom-title" });
    const previous = button("‹", () => this.choose({ layer: this.view.layer - 1 }), { "aria-label": t("zoom.previous_block") });
    const next = button("›", () => this.choose({ layer: this.view.layer + 1 }), { "aria-label": t("zoom.next_block") });
    const toggle =
      this.answer.ablated && button(t("zoom.ablated"), () => this.choose({ run: this.view.run === "ablated" ? "run" : "ablated" }));
    const strip = tokenStrip(this.answer.tokens, t("zoom.position"), (position) => this.choose({ position }));
    const pictured = el("div", { class: "zoom-pictured" });
    const diagram = el("div");
    const panel = el("div", { class: "zoom-part-panel" });
    const node = el(
      "section",
      { class: "zoom", "aria-label": t("zoom.title") },
      pictured,
      el("div", { class: "row" }, el("div", { class: "zoom-where" }, previous, title, next), toggle),
      strip.node,
      el("p", { class: "zoom-note" }, t("zoom.counted")),
      diagram,
      panel,
    );
    this.root.replaceChildren(node);
    return { node, title, previous, next, toggle, strip, pictured, diagram, panel };
  }

  drawDiagram(frame, view) {
    const key = `${view.layer} ${this.isAblated}`;
    if (key !== this.drawn) {
      this.drawn = key;
      this.diagram = blockDiagram(this.scene(), (part) => this.choose({ part }));
      frame.diagram.replaceChildren(this.diagram.node);
    }
    this.diagram.show(view);
  }

  /** The part's panel: as it is where only position, head, pair or step are others, else made when its numbers are there. */
  async drawPanel(frame, view) {
    const key = `${view.layer} ${view.part} ${this.isAblated}`;
    if (key === this.asked) return this.panel && this.showPanel(frame);
    this.asked = key;
    this.panel?.ended?.();
    this.panel = null;
    frame.panel.setAttribute("aria-busy", "true");
    try {
      const panel = await this.makePanel(view.part, view.layer);
      if (frame !== this.frame || key !== this.asked) return panel.ended?.();
      this.panel = panel;
      frame.panel.replaceChildren(panel.node);
      this.showPanel(frame);
      panel.placed?.();
    } catch (error) {
      if (frame !== this.frame || key !== this.asked || error.name === "AbortError") return;
      this.asked = "";
      this.fail(frame, error);
    }
    frame.panel.setAttribute("aria-busy", "false");
  }

  /** A head's picture stands first, unseen, in place of the diagram. */
  showPanel(frame) {
    const { panel, view } = this;
    panel.show(view);
    const wanted = view.level === "head" ? (panel.picture ?? null) : null;
    if (frame.pictured.firstChild !== wanted) frame.pictured.replaceChildren(...(wanted ? [wanted] : []));
  }

  async makePanel(part, layer) {
    const scene = this.scene();
    const choose = (choice) => this.choose(choice);
    const block = async (name) => (await this.blocks.part(layer, name))[scene.isAblated ? "ablated" : "run"];
    if (part === "add1" || part === "add2") return residualPanel(scene, part === "add1" ? "attention" : "mlp");
    if (part === "mlp") return mlpPanel(scene, (await block("mlp")).activations);
    if (part !== "attention") return layerNormPanel(scene, (await block("layer_norm")).activations, part);
    const { activations, attention } = await block("attention");
    return attentionPanel(scene, activations, attention, choose);
  }

  fail(frame, error) {
    const again = el("button", { type: "button", onclick: () => this.draw() }, t("zoom.again"));
    frame.panel.replaceChildren(el("div", { class: "alert", role: "alert" }, this.app.explain(error)), again);
  }

  /** @returns {Scene} */
  scene() {
    const { answer, numLayers, ablations, isAblated, app, blocks } = this,
      { layer } = this.view;
    const { norms } = (isAblated ? answer.ablated : answer.run).summaries;
    const ofLayer = Object.fromEntries(Object.entries(norms).map(([name, values]) => [name, values[layer]]));
    const withoutHead = (head) => blocks.withoutHead(layer, head, isAblated);
    return { tokens: answer.tokens, layer, numLayers, ablations, isAblated, norms: ofLayer, withoutHead, explain: app.explain };
  }
}
