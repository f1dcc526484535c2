/** The equations of a block, each a new MathML element. Rows are tokens: i asks, j is looked at; bold letters are vectors. */

import { display, over, part, root, row, space, sub, subsup, sum, sup, vector, word } from "./mathml.js";

const call = (name, ...argument) => row(name, "(", ...argument, ")");
const pair = (name) => sub(name, row("i", "j"));
const softmax = () => over(sup("e", pair("s")), row(sum("l"), sup("e", sub("s", row("i", "l")))));
const masked = () => [pair("m"), "=", "0", space(), "(", "j", "≤", "i", ")", ",", space(), "−", "∞", space(), "(", "j", ">", "i", ")"];
const projected = () => [sum("h"), subsup(vector("z"), "i", "h"), subsup("W", "O", "h"), "+", sub("b", "O")];

/** One head of attention in five lines, with the parts that the steps point at. */
export const attention = () => [
  display(pair("s"), "=", over(part("dot", sub(vector("q"), "i"), "·", sub(vector("k"), "j")), part("scale", root("D"))), part("mask", "+", pair("m"))),
  display(part("mask", ...masked())),
  display(pair("a"), "=", part("softmax", softmax())),
  display(sub(vector("z"), "i"), "=", part("values", sum("j"), pair("a"), sub(vector("v"), "j"))),
  display(call(word("attn"), vector("x")), "=", part("project", ...projected())),
];

const mean = (...terms) => row(over("1", "C"), sum("c"), ...terms);
const normed = () => over(row(part("before", vector("x")), part("centred", "−", "μ")), part("scaled", "σ"));

/** LayerNorm with the parts that its steps point at, and what its mean and deviation are. */
export const layerNorm = () => [
  display(call(word("LN"), vector("x")), "=", normed(), part("weighted", "⊙", vector("w"), "+", vector("b"))),
  display("μ", "=", mean(sub("x", "c")), ",", space(), sup("σ", "2"), "=", mean(sup(row("(", sub("x", "c"), "−", "μ", ")"), "2")), "+", "ε"),
];

const linear = (name) => [sub("W", word(name)), "+", sub("b", word(name))];
const cubic = () => row("u", "+", "0.044715", sup("u", "3"));

export const mlp = () => [
  display(call(word("mlp"), vector("x")), "=", call(word("gelu"), vector("x"), ...linear("fc")), ...linear("proj")),
  display(call(word("gelu"), "u"), "=", over("u", "2"), "(", "1", "+", call(word("tanh"), root(over("2", "π")), "(", cubic(), ")"), ")"),
];

/** @param {"attn" | "mlp"} branch */
export function residual(branch) {
  const [before, after, norm] = branch === "attn" ? ["x", "x′", "1"] : ["x′", "x″", "2"];
  return [display(vector(after), "=", vector(before), "+", call(word(branch), call(sub(word("LN"), norm), vector(before))))];
}
