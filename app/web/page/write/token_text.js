/** A text in the page, one element a unit, shaded by how surprising it is. Nodes are added; those that stand are not made anew. */

import { el } from "../dom.js";
import { t } from "../i18n.js";
import { levelOf, unit, unitsOf } from "./units.js";

/** @typedef {import("./units.js").Token} Token */

/** The unit that an element of the text shows. @type {WeakMap<Element, import("./units.js").Unit>} */
const shown = new WeakMap();

export const unitAt = (element) => shown.get(element);

export class TokenText {
  #drawn = 0; // tokens that have their element

  /** @param {HTMLElement} element that the text is written into */
  constructor(element) {
    this.element = element;
    element.classList.add("tokens");
    /** @type {Token[]} */
    this.tokens = [];
  }

  /** @param {Token} token */
  push(token) {
    this.tokens.push(token);
  }

  /** Add the elements of what came; a unit that is not complete waits, unless this is the `end`. */
  draw(end = false) {
    const { units, rest } = unitsOf(this.tokens.slice(this.#drawn), this.#drawn);
    const last = this.tokens.length - rest;
    if (end && rest) units.push(unit(this.tokens.slice(last), last));
    this.#drawn = end ? this.tokens.length : last;
    if (!units.length) return;
    const isFirst = !this.element.firstElementChild;
    this.element.append(...units.flatMap(nodesOf));
    if (isFirst) this.element.firstElementChild.tabIndex = 0; // where Tab comes in; arrows go on from there
  }

  /** Show these tokens: elements up to the first that differs stay. @param {Token[]} tokens */
  set(tokens) {
    let same = 0;
    while (same < tokens.length && same < this.#drawn && tokens[same] === this.tokens[same]) same += 1;
    for (const element of [...this.element.children].reverse()) {
      const { from, tokens } = shown.get(element);
      if (from + tokens.length <= same) break;
      same = Math.min(same, from);
      if (element.previousSibling instanceof Text) element.previousSibling.remove();
      element.remove();
    }
    this.tokens = [...tokens];
    this.#drawn = same;
    this.draw(true);
  }
}

/** A unit's element and, before it, the space that a word begins with: a shade is then as wide as the word, at a line's end too. */
function nodesOf(unit) {
  const [, space, text] = /^( ?)(.*)$/s.exec(unit.text);
  return space && text ? [space, elementOf(unit, text)] : [elementOf(unit, unit.text)];
}

function elementOf(unit, text) {
  const element = el("span", { tabIndex: -1, class: "token" }, text);
  if (unit.logprob !== null) element.classList.add(`level-${levelOf(unit.logprob)}`);
  if (unit.tokens.some((token) => token.chosen)) element.classList.add("chosen");
  if (/^\n+$/.test(unit.text)) element.classList.add("newline");
  // Shown, and no part of the text.
  if (!unit.text) element.dataset.mark = unit.tokens.at(-1).special ? t("write.end_mark") : "\ufffd";
  shown.set(element, unit);
  return element;
}
