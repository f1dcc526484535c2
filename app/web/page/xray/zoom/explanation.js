/** What a part of the block is, in two sentences, with its equations. */

import { el } from "../../dom.js";

/**
 * @param {string} title
 * @param {string} text
 * @param {Element[]} equations
 */
export function explanation(title, text, equations) {
  return el("div", { class: "zoom-explanation" }, el("div", null, el("h3", null, title), el("p", null, text)), formula(equations));
}

/** Equations in a box of their own, which scrolls where a phone is narrower than they are. @param {Element[]} equations */
export function formula(equations) {
  return el("div", { class: "zoom-formula" }, equations);
}

/** Light the part of a formula that is spoken of. @param {Element} node @param {string} name */
export function light(node, name) {
  for (const part of node.querySelectorAll("[data-part]"))
    part.classList.toggle("zoom-lit", part.getAttribute("data-part") === name);
}
