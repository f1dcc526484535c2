/** Where everything of the flow's picture stands. Pure arithmetic: knows numbers of tokens and layers, no document. */

const WIDTH = 1120; // of pictures up to 12 layers, in the picture's own units
const LEFT = 196; // tokens' labels, then embedding and position
const RIGHT = 236; // the last LayerNorm and the bars
const HEAD = 24;
const FIELD = 252; // the rows of all positions together, at most
const SMALLEST_STEP = 57;

export const HALF = 42; // half the width of the widest river
const LANE = 72; // from the river's middle to that of a branch
export const ROOM = 112; // from the river's middle to the parts above and below

/**
 * @typedef {object} Layout
 * @property {number} width
 * @property {number} height
 * @property {number} row height of a position's row
 * @property {number} step width of a block
 */

/** @param {number} tokens @param {number} layers @returns {Layout} */
export function layout(tokens, layers) {
  const step = Math.max(SMALLEST_STEP, (WIDTH - LEFT - RIGHT) / layers);
  const row = Math.min(18, FIELD / tokens);
  const river = HEAD + row * tokens + ROOM + 8;
  return {
    layers,
    tokens,
    step,
    row,
    river,
    left: LEFT,
    head: HEAD,
    end: LEFT + layers * step,
    width: LEFT + layers * step + RIGHT,
    above: river - LANE,
    below: river + LANE,
    lens: river + ROOM + 14,
    height: river + ROOM + 62,
  };
}

/** The middle of a position's row. */
export const rowY = (at, position) => at.head + (position + 0.5) * at.row;

/** The places inside a block: where its branches leave the stream, pass a LayerNorm, are computed, and join again. */
export function blockX(at, layer) {
  const x = at.left + layer * at.step;
  const place = (share) => x + share * at.step;
  return {
    start: x,
    end: x + at.step,
    fork1: place(0.05),
    gate1: place(0.16),
    attention: place(0.28),
    join1: place(0.47),
    fork2: place(0.53),
    gate2: place(0.64),
    mlp: place(0.76),
    join2: place(0.95),
  };
}

/** All joins from left to right: two a block. */
export function joins(at) {
  return Array.from({ length: at.layers }, (_, layer) => blockX(at, layer)).flatMap((x) => [x.join1, x.join2]);
}

/** The block that lies under x. */
export const layerAt = (at, x) => Math.min(at.layers - 1, Math.max(0, Math.floor((x - at.left) / at.step)));

/** The position whose row lies under y, or null outside the rows. */
export function positionAt(at, y) {
  const position = Math.floor((y - at.head) / at.row);
  return position >= 0 && position < at.tokens ? position : null;
}
