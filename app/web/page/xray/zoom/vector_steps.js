/** The steps that go over all D numbers of a head: the product of query and key, and the values mixed by their weights. */

import { el } from "../../dom.js";
import { t } from "../../i18n.js";
import { vectorsAgree } from "./head_numbers.js";
import { figure, magnitude, norm, strongest, weightFigure } from "./numbers.js";
import { strip } from "./strips.js";
import { place } from "./tokens.js";
import { vectorTable } from "./vector_table.js";

const SHOWN = 5; // the keys of the largest weights, as strips of their own

/** A strip with words before it and a number behind it. */
export function line(size) {
  const bars = strip(size);
  const name = el("span", { class: "zoom-name" });
  const value = el("span", { class: "zoom-value" });
  return { node: el("div", { class: "zoom-vector-line" }, name, bars.node, value), bars, name, value };
}

/** q, k, their products one by one, and the sum. */
export function dotStep(scene, width) {
  const [q, k, products] = [line(width), line(width), line(width)];
  const total = el("p", { class: "zoom-numbers" });
  const table = vectorTable(width, 3);
  const note = el("p", { class: "zoom-note" }, t("zoom.bars", { size: width }));
  const node = el("div", null, q.node, k.node, products.node, total, note, table.node);
  const show = (head, query, key) => {
    const a = head.q(query);
    const b = head.k(key);
    const both = a.map((x, i) => x * b[i]);
    const scale = Math.max(magnitude(a), magnitude(b));
    q.name.textContent = `q  ${place(scene.tokens, query)}`;
    k.name.textContent = `k  ${place(scene.tokens, key)}`;
    products.name.textContent = "q ⊙ k";
    q.bars.show(a, scale);
    k.bars.show(b, scale);
    products.bars.show(both);
    q.value.textContent = `‖q‖ ${figure(norm(a), 2)}`;
    k.value.textContent = `‖k‖ ${figure(norm(b), 2)}`;
    products.value.textContent = `Σ ${figure(head.product(query, key))}`;
    total.textContent = `q · k = ${figure(head.product(query, key))}`;
    table.show(["q", "k", "q ⊙ k"], [a, b, both]);
  };
  return { node, show };
}

/** The values of the keys with the largest weights, of the chosen one, and z, the sum over all. */
export function valuesStep(scene, width) {
  const lines = Array.from({ length: Math.min(SHOWN, scene.tokens.length) }, () => line(width));
  const z = line(width);
  const note = el("p", { class: "zoom-note" });
  z.node.classList.add("zoom-total");
  const table = vectorTable(width, lines.length + 1);
  const node = el(
    "div",
    null,
    lines.map((each) => each.node),
    z.node,
    note,
    table.node,
  );
  const show = (head, query, key) => {
    const keys = mostly(head, query, key, lines.length);
    const vectors = keys.map((other) => head.weighted(query, other));
    const scale = Math.max(...[head.z(query), ...vectors].map(magnitude));
    lines.forEach((each, i) => {
      each.node.hidden = i >= keys.length;
      if (i < keys.length)
        showValue(each, keys[i] === key, head.weights(query)[keys[i]], place(scene.tokens, keys[i]), vectors[i], scale);
    });
    z.name.textContent = `z  ${place(scene.tokens, query)}`;
    z.bars.show(head.z(query), scale);
    z.value.textContent = `‖z‖ ${figure(norm(head.z(query)))}`;
    table.show([...keys.map((other) => place(scene.tokens, other)), "z"], [...vectors, head.z(query)]);
    const rest = head.weights(query).reduce((sum, weight, other) => (keys.includes(other) ? sum : sum + weight), 0);
    const isSum = vectorsAgree(head.mixed(query), head.z(query));
    note.textContent = t(isSum ? "zoom.values_sum" : "zoom.replaced", { rest: figure(Math.max(0, rest)) });
  };
  return { node, show };
}

/** The keys of the largest weights, the chosen one among them. */
function mostly(head, query, key, count) {
  const keys = strongest(query + 1, count, (other) => head.weights(query)[other]);
  if (!keys.includes(key)) keys[keys.length === count ? count - 1 : keys.length] = key;
  return keys;
}

function showValue(line, isChosen, weight, name, vector, scale) {
  line.node.classList.toggle("zoom-chosen", isChosen);
  line.name.textContent = `${weightFigure(weight)} · v  ${name}`;
  line.bars.show(vector, scale);
  line.value.textContent = `‖${figure(norm(vector))}‖`;
}
