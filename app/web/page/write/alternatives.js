/**
 * What else might have come: a small panel beside the token that is pointed at or focused, with the likeliest tokens there.
 *
 * By mouse it shows on hover, by touch on a tap, by keyboard on focus: arrows go from token to token, Down or Enter goes into the
 * panel, Up and Down through it, Enter chooses, Escape comes back. Knows no request.
 */

import { clear, el } from "../dom.js";
import { t } from "../i18n.js";
import { unitAt } from "./token_text.js";
import { percent, REPLACEMENT } from "./units.js";

/** @typedef {import("./units.js").Unit} Unit @typedef {import("./units.js").Alternative} Alternative */

const OPEN_MS = 60; // a mouse that only passes over opens nothing
const CLOSE_MS = 250; // the way from the token to the panel

let number = 0;

export class Alternatives {
  #timer = 0;
  /** @type {HTMLElement | null} */
  #token = null;

  /**
   * @param {HTMLElement} text that holds the tokens, positioned parent of the panel
   * @param {((token: HTMLElement, unit: Unit, alternative: Alternative) => void) | null} choose null where they can only be read
   */
  constructor(text, choose) {
    this.text = text;
    this.choose = choose;
    this.panel = el("div", { class: "alternatives card", role: "group", id: `alternatives-${(number += 1)}`, hidden: true });
    this.panel.onkeydown = (event) => this.#moveInside(event);
    this.panel.onpointerenter = () => clearTimeout(this.#timer);
    this.panel.onpointerleave = (event) => this.#leave(event);
    text.addEventListener("pointerover", (event) => this.#hover(event));
    text.addEventListener("pointerout", (event) => this.#leave(event));
    text.addEventListener("focusin", (event) => this.#focus(event));
    text.addEventListener("click", (event) => tokenOf(event) && this.open(tokenOf(event)));
    text.addEventListener("keydown", (event) => this.#moveOver(event));
    document.addEventListener("pointerdown", (event) => this.#pointElsewhere(event));
    document.addEventListener("focusin", (event) => this.#focusElsewhere(event));
  }

  /** @param {HTMLElement} token */
  open(token) {
    clearTimeout(this.#timer);
    const unit = unitAt(token);
    if (!unit || token === this.#token) return;
    this.close();
    this.#token = token;
    token.classList.add("open");
    clear(this.panel).append(...this.#rows(unit));
    this.panel.setAttribute("aria-label", t("write.alternatives_of", { token: nameOf(unit.tokens[0], unit.text) }));
    this.panel.hidden = false;
    this.#place(token);
  }

  close() {
    clearTimeout(this.#timer);
    this.#token?.classList.remove("open");
    this.#token = null;
    this.panel.hidden = true;
  }

  #rows(unit) {
    const [first] = unit.tokens;
    const note = (text) => el("p", { class: "hint" }, text);
    const rows = first.top.map((other) => this.#row(unit, other, other.id === first.id));
    const isOne = unit.tokens.length === 1;
    if (!isOne) rows.unshift(note(t("write.parts", { num: unit.tokens.length })));
    if (!isOne || !first.top.some(({ id }) => id === first.id)) rows.unshift(titleOf(unit)); // else one of the rows is it
    if (!first.top.length) rows.push(note(t("write.no_alternatives")));
    else if (this.choose) rows.push(note(t("write.choose_hint")));
    return rows;
  }

  #row(unit, other, came) {
    const bar = el("span", { class: "bar", style: { "--share": Math.exp(other.logprob).toFixed(4) } });
    const children = [
      bar,
      el("span", { class: "name" }, nameOf(other, other.text)),
      el("span", { class: "number" }, percent(other.logprob)),
    ];
    const shared = { class: "alternative", "aria-current": came ? "true" : null };
    if (!this.choose) return el("p", shared, children);
    const token = this.#token;
    return el("button", { ...shared, type: "button", tabIndex: -1, onclick: () => this.#chosen(token, unit, other) }, children);
  }

  #chosen(token, unit, other) {
    this.close();
    this.choose(token, unit, other);
  }

  /** Under the token's first line, or over it where the window ends; inside of the text's parent. */
  #place(token) {
    const [line] = token.getClientRects();
    const around = this.panel.offsetParent?.getBoundingClientRect();
    if (!line || !around) return;
    const { offsetWidth: width, offsetHeight: height } = this.panel;
    const left = Math.max(0, Math.min(line.left - around.left, around.width - width));
    const isBelow = line.bottom + height + 8 <= innerHeight || line.top < height + 8;
    this.panel.style.setProperty("left", `${left}px`);
    this.panel.style.setProperty("top", `${(isBelow ? line.bottom + 4 : line.top - height - 4) - around.top}px`);
  }

  // ---- by pointer

  #hover(event) {
    const token = tokenOf(event);
    if (event.pointerType !== "mouse" || !token) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.open(token), OPEN_MS);
  }

  #leave(event) {
    if (event.pointerType !== "mouse") return;
    clearTimeout(this.#timer);
    if (!this.panel.contains(document.activeElement)) this.#timer = setTimeout(() => this.close(), CLOSE_MS);
  }

  #pointElsewhere({ target }) {
    if (!this.panel.hidden && !this.panel.contains(target) && !this.text.contains(target)) this.close();
  }

  // ---- by keyboard

  #focus(event) {
    const token = tokenOf(event);
    if (!token) return;
    rove(token);
    this.open(token);
  }

  #focusElsewhere({ target }) {
    if (!this.panel.hidden && this.#token !== target && !this.panel.contains(target) && !this.text.contains(target)) this.close();
  }

  #moveOver(event) {
    const token = tokenOf(event);
    if (!token || event.ctrlKey || event.metaKey || event.altKey) return;
    const siblings = [...token.parentElement.children];
    const at = siblings.indexOf(token);
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: siblings.length - 1 }[event.key];
    if (to !== undefined) siblings[to]?.focus();
    else if (["Enter", " ", "ArrowDown"].includes(event.key)) this.#enter(token);
    else if (event.key === "Escape" && !this.panel.hidden) this.close();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  #enter(token) {
    this.open(token);
    this.panel.querySelector("button")?.focus();
  }

  #moveInside(event) {
    const rows = [...this.panel.querySelectorAll("button")];
    const at = rows.indexOf(document.activeElement);
    if (at < 0) return;
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 }[event.key];
    if (event.key === "Escape" || to === -1) this.#token?.focus();
    else if (to !== undefined) rows[to]?.focus();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

/** @returns {HTMLElement | null} */
const tokenOf = (event) => event.target.closest?.(".token") ?? null;

function titleOf({ tokens, text, logprob }) {
  const chance = logprob === null ? t("write.first_token") : percent(logprob);
  return el("p", { class: "title" }, el("strong", null, nameOf(tokens[0], text)), el("span", { class: "number" }, chance));
}

/** The one token of a text that Tab comes to is the one that was focused last; to a screen reader it is a button among text. */
function rove(token) {
  const before = token.parentElement.querySelector('.token[tabindex="0"]');
  if (before && before !== token) {
    before.tabIndex = -1;
    for (const name of ["role", "aria-label"]) before.removeAttribute(name);
  }
  const { tokens, text: written, logprob } = unitAt(token);
  const name = nameOf(tokens[0], written);
  token.tabIndex = 0;
  token.setAttribute("role", "button");
  token.setAttribute("aria-label", logprob === null ? name : `${name}, ${percent(logprob)}`);
}

/** A token's text to be read by itself: what is invisible is shown. */
function nameOf(token, text) {
  if (token.special && !text) return t("write.special_token", { id: token.id });
  if (text.includes(REPLACEMENT) || !text) return t("write.part", { id: token.id });
  return text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replace(/^ | $/g, "␣");
}
