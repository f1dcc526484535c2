/**
 * The page's language: that of the browser, unless a reader chooses. Knows the table of strings, and no view.
 *
 * A text that never changes is best named where it stands, in HTML or by dom.js: `data-t="key"` for an element's text, and
 * `data-t-title`, `data-t-placeholder`, `data-t-aria-label` for these attributes. `translate` writes them, and writes them again
 * when the language changes. A text that is made by code, with values, is made by `t` and made again by `onLanguage`.
 */

import { strings } from "./strings.js";

/** @typedef {"en" | "zh"} Language */

const ATTRIBUTES = ["title", "placeholder", "aria-label"];
const CHOICE = "language"; // of localStorage
const POWERS = { en: { many: 1e6, most: 1e9 }, zh: { many: 1e4, most: 1e8 } };
/** @type {Set<(language: Language) => void>} */
const listeners = new Set();
let current = chosen() ?? ofBrowser();

/** @returns {Language} */
export function language() {
  return current;
}

/**
 * Keep a reader's choice in this browser, write every text anew and tell all who listen.
 *
 * @param {Language} language
 * @param {{ keep?: boolean }} [options] keep false: it is a link's language, shown and not kept
 */
export function setLanguage(language, { keep = true } = {}) {
  current = language;
  if (keep) localStorage.setItem(CHOICE, language);
  document.documentElement.lang = language === "zh" ? "zh-Hans" : language;
  translate(document.documentElement);
  for (const listener of listeners) listener(language);
}

/**
 * Be told of every change, after `translate` has written what is there; the result ends that.
 *
 * @param {(language: Language) => void} listener
 * @returns {() => void}
 */
export function onLanguage(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/**
 * A key's text in the page's language; {name} in it is replaced by values.name.
 *
 * @param {string} key
 * @param {Record<string, string | number>} [values]
 * @returns {string}
 */
export function t(key, values = {}) {
  const text = strings[key]?.[current];
  if (text === undefined) throw new Error(`no text has the key ${key}`);
  return text.replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole));
}

/**
 * How many, in short, by the powers that each language counts in: 29.7 M in English are 2970 ten thousands in Chinese.
 *
 * @param {number} number
 * @returns {string}
 */
export function count(number) {
  const { many, most } = POWERS[current];
  const [key, power] = number < most ? ["common.many", many] : ["common.most", most];
  return t(key, { number: Number((number / power).toPrecision(3)) });
}

/**
 * Write the texts that an element and all inside of it name by data-t and its like.
 *
 * @param {Element} root
 */
export function translate(root) {
  for (const element of [root, ...root.querySelectorAll("[data-t]")]) {
    const key = element.getAttribute("data-t");
    if (key) element.textContent = t(key);
  }
  for (const name of ATTRIBUTES) {
    for (const element of [root, ...root.querySelectorAll(`[data-t-${name}]`)]) {
      const key = element.getAttribute(`data-t-${name}`);
      if (key) element.setAttribute(name, t(key));
    }
  }
}

/** @returns {Language | null} */
function chosen() {
  const choice = localStorage.getItem(CHOICE);
  return choice === "en" || choice === "zh" ? choice : null;
}

/** The first of the reader's languages that there is. @returns {Language} */
function ofBrowser() {
  const known = navigator.languages.map((tag) => tag.toLowerCase().split("-")[0]).find((tag) => tag === "en" || tag === "zh");
  return known === "zh" ? "zh" : "en";
}
