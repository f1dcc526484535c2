/** Takes the view along: the picture as an SVG that stands alone, the answer as JSON, the view as a link. */

import { el } from "../dom.js";
import { t } from "../i18n.js";

const STYLES = [
  "fill",
  "fill-opacity",
  "stroke",
  "stroke-width",
  "stroke-dasharray",
  "stroke-opacity",
  "opacity",
  "font-family",
  "font-size",
  "font-weight",
  "font-style",
  "visibility",
];

/**
 * A copy of a picture with its styles as attributes, on the page's ground: it opens in any viewer.
 * @param {SVGSVGElement} picture @returns {string}
 */
export function standalone(picture) {
  const copy = picture.cloneNode(true);
  const [from, to] = [
    [picture, ...picture.querySelectorAll("*")],
    [copy, ...copy.querySelectorAll("*")],
  ];
  from.forEach((element, i) => inline(element, to[i]));
  const { width, height } = picture.viewBox.baseVal;
  for (const [name, value] of Object.entries({ xmlns: "http://www.w3.org/2000/svg", width, height }))
    copy.setAttribute(name, String(value));
  const ground = copy.ownerDocument.createElementNS("http://www.w3.org/2000/svg", "rect");
  for (const [name, value] of Object.entries({ width, height, fill: getComputedStyle(document.body).backgroundColor }))
    ground.setAttribute(name, String(value));
  copy.prepend(ground);
  return new XMLSerializer().serializeToString(copy);
}

function inline(element, copy) {
  const style = getComputedStyle(element);
  for (const name of STYLES) copy.setAttribute(name, style.getPropertyValue(name));
  for (const name of ["class", "style", "tabindex", "role"]) copy.removeAttribute(name);
}

/** Save a text as a file. */
export function save(text, name, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/**
 * Put a link into the clipboard, which exists on https and localhost alone; elsewhere show it.
 * @param {string} link @param {Element} status where it is said what became of it
 */
export async function share(link, status) {
  try {
    await navigator.clipboard.writeText(link);
    status.replaceChildren(t("xray.link_copied"));
  } catch {
    status.replaceChildren(t("xray.link_shown"), el("a", { href: link }, link));
  }
}
