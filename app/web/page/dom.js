/** Makes elements. Knows nothing of what they show. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * @typedef {Node | string | number | null | undefined | false | any[]} Child null, undefined and false are left out, a list is gone into
 */

/**
 * An element: el("button", { class: "primary", type: "button", onclick: stop, "aria-label": name }, "Stop").
 *
 * `class`, `for`, names with a hyphen and `role` are attributes, `style` is an object of properties for the CSSOM ("--width": "3px"), all
 * else is a property of the element, among them `onclick`, `dataset` (an object), `htmlFor`, `hidden`. Null, undefined and, of an
 * attribute, false are left out. With "data-t": key the element has the text of that key, in whatever language (i18n.js).
 *
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, any> | null} [properties]
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function el(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined) continue;
    if (name === "style") setStyle(element, value);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (["class", "for", "role", "list", "form"].includes(name) || name.includes("-")) setAttribute(element, name, value);
    else /** @type {any} */ (element)[name] = value;
  }
  add(element, children);
  return element;
}

/**
 * An SVG element: svg("path", { d, class: "river", tabindex: 0, onclick }). All are attributes but `style`, an object, and functions,
 * which are listeners named on...
 *
 * @template {keyof SVGElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, any> | null} [attributes]
 * @param {...Child} children
 * @returns {SVGElementTagNameMap[Tag]}
 */
export function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined) continue;
    if (name === "style") setStyle(element, value);
    else if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else setAttribute(element, name, value);
  }
  add(element, children);
  return element;
}

/**
 * Take everything out of an element.
 *
 * @template {Element} E
 * @param {E} element
 * @returns {E} the element
 */
export function clear(element) {
  element.replaceChildren();
  return element;
}

/**
 * Have a screen reader say a text when it has said what it says now. Not for every hover or token: it would never be silent.
 *
 * @param {string} text
 */
export function announce(text) {
  const region = document.getElementById("announcer");
  if (!region) return;
  region.textContent = ""; // the same text again is news too
  requestAnimationFrame(() => (region.textContent = text));
}

/** @param {Element} element @param {string} name @param {any} value */
function setAttribute(element, name, value) {
  if (value === false && !name.startsWith("aria-")) return;
  element.setAttribute(name, value === true && !name.startsWith("aria-") ? "" : String(value));
}

/** @param {HTMLElement | SVGElement} element @param {Record<string, string | number>} style */
function setStyle(element, style) {
  for (const [name, value] of Object.entries(style)) element.style.setProperty(name, String(value));
}

/** @param {Element} element @param {Child[]} children */
function add(element, children) {
  for (const child of children) {
    if (Array.isArray(child)) add(element, child);
    else if (child !== null && child !== undefined && child !== false) element.append(child instanceof Node ? child : String(child));
  }
}
