/** Prometheus' text format, as /metrics writes it, and what one reads off histograms. Knows no page. */

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?$/;
const LABEL = /([a-zA-Z_]\w*)="((?:\\.|[^"\\])*)"/g;
const ESCAPES = { "\\n": "\n", '\\"': '"', "\\\\": "\\" };

/** @typedef {{name: string, labels: Record<string, string>, value: number}} Series */

/** All series of a scrape; comments and lines that are none are passed over. @returns {Series[]} */
export function parse(text) {
  return text
    .split("\n")
    .map(series)
    .filter((found) => found !== null);
}

function series(line) {
  const match = LINE.exec(line.trim());
  if (!match) return null;
  const labels = [...(match[2] ?? "").matchAll(LABEL)].map(([, name, value]) => [
    name,
    value.replace(/\\[n"\\]/g, (pair) => ESCAPES[pair]),
  ]);
  return { name: match[1], labels: Object.fromEntries(labels), value: number(match[3]) };
}

function number(text) {
  const infinite = { "+Inf": Infinity, Inf: Infinity, "-Inf": -Infinity };
  return text in infinite ? infinite[text] : Number(text);
}

/** A series' value, all its labels together; null if there is none. */
export function total(all, name) {
  const found = all.filter((one) => one.name === name);
  return found.length ? found.reduce((sum, one) => sum + one.value, 0) : null;
}

/** A histogram's counts up to each bound, by bound. @returns {Map<number, number>} */
export function buckets(all, name) {
  const found = all.filter((one) => one.name === `${name}_bucket`);
  return new Map(found.map((one) => [number(one.labels.le), one.value]).sort(([a], [b]) => a - b));
}

/** What came into each bucket since `before`. */
export const since = (now, before) => new Map([...now].map(([bound, count]) => [bound, count - (before.get(bound) ?? 0)]));

/** The quantile as Prometheus' own histogram_quantile has it: even within a bucket; null where nothing was observed. */
export function quantile(counts, q) {
  const bounds = [...counts.keys()];
  const wanted = q * (counts.get(Infinity) ?? 0);
  if (!wanted) return null;
  const place = bounds.findIndex((bound) => counts.get(bound) >= wanted);
  if (bounds[place] === Infinity) return bounds[place - 1] ?? null;
  const [low, below] = place ? [bounds[place - 1], counts.get(bounds[place - 1])] : [0, 0];
  return low + ((bounds[place] - low) * (wanted - below)) / (counts.get(bounds[place]) - below);
}
