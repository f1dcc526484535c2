/** What each part of the flow is: two sentences and its equation. Rows are tokens; bold letters are vectors over the features. */

import { el } from "../dom.js";
import { t } from "../i18n.js";
import { display, over, row, sub, subsup, sum, sup, vector, word } from "./zoom/mathml.js";

const x = (layer) => sub(vector("x"), layer);
const tall = (...parts) => row("(", ...parts, ")");

const scaled = (index) => sup("e", row(sub("z", index), "/", "τ"));

const EQUATIONS = {
  embedding: () => display(x("0"), "=", sub("W", "E"), "[", word("token"), "]", "+", sub("W", "P"), "[", word("position"), "]"),
  residual: () => display(vector("x′"), "=", vector("x"), "+", word("attn"), tall(word("LN"), tall(vector("x")))),
  residual_mlp: () => display(vector("x″"), "=", vector("x′"), "+", word("mlp"), tall(word("LN"), tall(vector("x′")))),
  norm: () =>
    display(word("LN"), tall(vector("x")), "=", over(row(vector("x"), "−", "μ"), "σ"), "⊙", vector("w"), "+", vector("b")),
  deviation: () => display("σ", "=", sup(tall(word("var"), tall(vector("x")), "+", "ε"), over("1", "2"))),
  lens: () => display(vector("p"), "=", word("softmax"), tall(word("LN"), tall(sub(vector("x"), "l")), subsup("W", "E", "⊤"))),
  loss: () =>
    display(
      word("loss"),
      "=",
      "−",
      over("1", row("T", "−", "1")),
      sum(row("i", "=", "2"), "T"),
      word("log"),
      "p",
      tall(sub("t", "i"), "|", sub("t", row("<", "i"))),
    ),
  temperature: () => display(sub("p", "i"), "=", over(scaled("i"), row(sum(row("j", "∈", word("top-k"))), scaled("j")))),
  attribution: () =>
    display(
      word("logit"),
      tall("t"),
      "=",
      sum("c"),
      tall(over(row(vector("c"), "−", sub("μ", "c")), "σ"), "⊙", vector("w")),
      "·",
      sub("W", "E"),
      "[",
      "t",
      "]",
      "+",
      vector("b"),
      "·",
      sub("W", "E"),
      "[",
      "t",
      "]",
    ),
  prompt: () =>
    display(
      sub("a", "i"),
      "=",
      over(row("∂", word("logit"), tall("t")), row("∂", sub(vector("e"), "i"))),
      "·",
      sub(vector("e"), "i"),
    ),
  order: () => display(vector("x"), "+", "f", tall(word("LN"), tall(vector("x")))),
  order_post: () => display(word("LN"), tall(vector("x"), "+", "f", tall(vector("x")))),
};

/** The words of a part with its equation. @param {string} words @param {(keyof typeof EQUATIONS)[]} equations */
export const explanation = (words, ...equations) =>
  el(
    "div",
    { class: "explanation" },
    el("p", null, words),
    equations.map((name) => el("div", { class: "equation" }, EQUATIONS[name]())),
  );

/** The parts of the picture, from left to right. */
export function cards() {
  const card = (title, words, ...equations) =>
    el("section", { class: "card" }, el("h3", null, title), explanation(words, ...equations));
  return el(
    "div",
    { class: "cards" },
    card(t("xray.explain.embedding"), t("xray.explain.embedding_words"), "embedding"),
    card(t("xray.explain.residual"), t("xray.explain.residual_words"), "residual", "residual_mlp"),
    card(t("xray.explain.norm"), t("xray.explain.norm_words"), "norm", "deviation"),
    card(t("xray.explain.lens"), t("xray.explain.lens_words"), "lens"),
    card(t("xray.explain.loss"), t("xray.explain.loss_words"), "loss"),
    card(t("xray.explain.prompt"), t("xray.explain.prompt_words"), "prompt"),
  );
}
