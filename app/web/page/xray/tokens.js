/** The text as its tokens, each with its surprise and what it gives to the explained token. One of them is chosen: a listbox. */

import { clear, el } from "../dom.js";
import { t } from "../i18n.js";
import { reach, shown, signed } from "./numbers.js";

/** @param {(choice: {position: number}) => void} onSelect */
export function makeTokens(onSelect) {
  const list = el("ol", {
    class: "tokens",
    role: "listbox",
    "aria-label": t("xray.tokens.label"),
    "aria-orientation": "horizontal",
  });
  const choose = (event) => {
    const option = event.target.closest("[role=option]");
    if (option) onSelect({ position: Number(option.dataset.position) });
  };
  list.addEventListener("pointerover", (event) => event.pointerType === "mouse" && choose(event));
  list.addEventListener("click", choose);
  list.addEventListener("keydown", (event) => move(list, event, onSelect));
  return { node: list, fill: (tokens, run, served) => fill(list, tokens, run, served), update: (view) => update(list, view) };
}

function fill(list, tokens, run, served) {
  const scores = run.summaries.prompt_attribution?.scores ?? [];
  const most = reach([scores]);
  const figures = tokens.map((_, position) => ({
    logprob: run.logprobs[position],
    score: scores[position],
    served: served?.logprobs[position] ?? null,
  }));
  clear(list).append(...tokens.map((token, position) => option(token, position, figures[position], most)));
}

/** Its shade is the surprise, up to 10 nats; its bar the attribution. Both stand in numbers beside it. */
function option(token, position, figures, most) {
  const { logprob, score } = figures;
  const style = {
    "--surprise": `${Math.min(1, -(logprob ?? 0) / 10) * 100}%`,
    "--score": `${Math.abs((score ?? 0) / most) * 100}%`,
  };
  const told = wordsOf(figures);
  return el(
    "li",
    {
      role: "option",
      class: score < 0 ? "token negative" : "token",
      "data-position": position,
      "aria-selected": "false",
      tabIndex: -1,
      title: told.join("\n"),
      style,
    },
    el("span", { class: "token-text" }, shown(token.text)),
    el("span", { class: "token-surprise" }, logprob === null ? "·" : (-logprob).toFixed(1)),
    el("span", { class: "visually-hidden" }, told.join(" ")),
  );
}

function wordsOf({ logprob, score, served }) {
  if (logprob === null) return [t("xray.tokens.first"), ...scoreWords(score)];
  const there = served === null ? [] : [t("xray.tokens.served", { nats: (-served).toFixed(2) })];
  return [t("xray.tokens.surprise", { nats: (-logprob).toFixed(2) }), ...there, ...scoreWords(score)];
}

const scoreWords = (score) => (score === undefined ? [] : [t("xray.tokens.score", { score: signed(score) })]);

function update(list, { position }) {
  const [old, now] = [list.querySelector('[aria-selected="true"]'), list.children[position]];
  if (old === now || !now) return;
  old?.setAttribute("aria-selected", "false");
  old?.setAttribute("tabindex", "-1");
  now.setAttribute("aria-selected", "true");
  now.setAttribute("tabindex", "0");
}

function move(list, event, onSelect) {
  const at = [...list.children].indexOf(document.activeElement),
    last = list.children.length - 1;
  const to = { ArrowLeft: at - 1, ArrowUp: at - 1, ArrowRight: at + 1, ArrowDown: at + 1, Home: 0, End: last }[event.key];
  if (to === undefined || at < 0) return;
  event.preventDefault();
  const position = Math.min(last, Math.max(0, to));
  list.children[position].focus();
  onSelect({ position });
}

/** What the precision that serves makes of the same text. */
export function servedWords({ served }) {
  if (!served) return "";
  const number = (value, places) => (value === null ? "–" : value.toFixed(places));
  return t("xray.served", {
    dtype: served.dtype,
    loss: number(served.loss, 3),
    mean: number(served.mean_difference, 4),
    largest: number(served.max_difference, 4),
  });
}
