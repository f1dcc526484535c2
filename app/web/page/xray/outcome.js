/** Where the flow ends: bars of the likeliest next tokens, as the network gives them and as temperature and top-k leave them. */

import { svg } from "../dom.js";
import { t } from "../i18n.js";
import { adjusted, brief, percent } from "./numbers.js";
import { write } from "./write.js";

const BARS = 10,
  ROW = 20,
  WIDTH = 66;

/** @param {import("./geometry.js").Layout} at */
export function makeOutcome(at) {
  const x = at.end + 40;
  const top = at.river - (BARS * ROW) / 2;
  const rows = Array.from({ length: BARS }, (_, i) => makeRow(x, top + i * ROW));
  const title = svg("text", { class: "name", x, y: top - 10 });
  const fan = svg("path", {
    class: "fan",
    d: `M${at.end + 24},${at.river - 6}L${x - 6},${top}v${BARS * ROW}L${at.end + 24},${at.river + 6}Z`,
  });
  const node = svg(
    "g",
    { "aria-hidden": "true" },
    fan,
    title,
    rows.flatMap((row) => Object.values(row)),
  );
  return { node, update: (view, known) => update(rows, title, view, known) };
}

function makeRow(x, y) {
  const bar = { x: x + 78, y: y + 4, height: ROW - 7 };
  return {
    token: svg("text", { class: "lens-token", x: x + 72, y: y + 14, "text-anchor": "end" }, ""),
    bar: svg("rect", { ...bar, class: "bar", width: 0 }),
    frame: svg("rect", { ...bar, class: "bar-frame", width: 0 }),
    value: svg("text", { class: "number", x: x + 78, y: y + 14 }, ""),
  };
}

function update(rows, title, { position, tokens, temperature, topK }, known) {
  const chances = adjusted(known, temperature, topK);
  const unit = WIDTH / Math.max(chances[0], known[0].probability); // the longest bar fills its place; the numbers say how likely
  write(title, t("xray.flow.next", { token: brief(tokens[position].text, 12) }));
  rows.forEach((row, i) => {
    const told = i < known.length;
    write(row.token, told ? brief(known[i].text, 9) : "");
    write(row.value, told ? percent(chances[i]) : "");
    const [width, whole] = told ? [chances[i] * unit, known[i].probability * unit] : [0, 0];
    row.bar.setAttribute("width", width.toFixed(1));
    row.frame.setAttribute("width", whole.toFixed(1));
    row.value.setAttribute("dx", (Math.max(width, whole) + 5).toFixed(1));
  });
}
