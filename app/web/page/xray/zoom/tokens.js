/** How a text's tokens are named here, and the strip of a text's tokens along which a reader goes from position to position. */

import { el } from "../../dom.js";
import { choice } from "./choice.js";

/** A token's text with its outer spaces and its line breaks made visible. @param {string} text */
function visible(text) {
  if (text === "") return "∅";
  return text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replace(/^ /, "·").replace(/ $/, "·");
}

/** The same, cut where it is long. @param {string} text */
export function label(text, longest = 14) {
  const characters = [...visible(text)];
  return characters.length > longest ? `${characters.slice(0, longest - 1).join("")}…` : characters.join("");
}

/** A position, counted from 0 as everywhere on the page and in the API, and its token: "3 ·cat". @param {{text: string}[]} tokens */
export const place = (tokens, position) => `${position} ${label(tokens[position].text)}`;

/**
 * @param {{text: string}[]} tokens
 * @param {string} name what a screen reader calls it
 * @param {(position: number) => void} onChoose
 */
export function tokenStrip(tokens, name, onChoose) {
  const items = tokens.map((token, i) =>
    el("button", { type: "button", class: "zoom-token" }, el("span", { class: "zoom-index" }, i), label(token.text)),
  );
  return choice(el("div", { class: "zoom-strip" }, items), items, name, onChoose);
}
