/** The outlines of what flows, as the `d` of SVG paths. Pure: numbers in, text out. */

const at = (number) => number.toFixed(1);

/** A band of constant thickness from (x0, y0) to (x1, y1), level at both ends. */
export function band(x0, y0, x1, y1, thickness) {
  const half = thickness / 2,
    middle = at((x0 + x1) / 2);
  return (
    `M${at(x0)},${at(y0 - half)}C${middle},${at(y0 - half)} ${middle},${at(y1 - half)} ${at(x1)},${at(y1 - half)}` +
    `V${at(y1 + half)}C${middle},${at(y1 + half)} ${middle},${at(y0 + half)} ${at(x0)},${at(y0 + half)}Z`
  );
}

/** One edge of a river: level, and turning from half to half around each join. */
function edge(joins, halves, start, end, y, turn) {
  const parts = [`${at(start)},${at(y(halves[0]))}`];
  joins.forEach((x, i) => {
    const [before, after] = [at(y(halves[i])), at(y(halves[i + 1]))];
    parts.push(`L${at(x - turn)},${before}C${at(x)},${before} ${at(x)},${after} ${at(x + turn)},${after}`);
  });
  return parts.join("") + `L${at(end)},${at(y(halves[joins.length]))}`;
}

/**
 * A river around the height `middle`, whose half width changes from halves[i] to halves[i + 1] at joins[i]. The lower edge goes
 * back from end to start: it is the edge of the reversed river, seen in a mirror.
 */
export function river(joins, halves, start, end, middle, turn) {
  const upper = edge(joins, halves, start, end, (half) => middle - half, turn);
  const mirrored = joins.map((x) => start + end - x).reverse();
  const lower = edge(mirrored, [...halves].reverse(), start, end, (half) => middle + half, turn);
  return `M${upper}L${mirror(lower, start + end)}Z`;
}

/** The same line seen in a mirror: x becomes sum - x. */
function mirror(path, sum) {
  return path.replace(/(-?[\d.]+),/g, (_, x) => `${at(sum - x)},`);
}

/** A LayerNorm's gate: an hourglass lying across the branch at (x, y). */
export const gate = (x, y) => `M${at(x - 4)},${at(y - 8)}h8l-3,8l3,8h-8l3,-8Z`;

/** A thin branch from (x0, y0) on the river to (x1, y1), leaving it steeply. */
export const branch = (x0, y0, x1, y1) => `M${at(x0)},${at(y0)}C${at(x0)},${at(y1)} ${at(x0)},${at(y1)} ${at(x1)},${at(y1)}`;
