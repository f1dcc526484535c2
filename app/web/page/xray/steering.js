/** Where a key leads on the picture: blocks to the left and right, positions up and down. Pure: knows no document. */

/**
 * @param {string} key of the keyboard
 * @param {{layer: number, position: number}} place the choice
 * @param {{layers: number, tokens: number}} sizes
 * @returns {{layer?: number, position?: number} | undefined}
 */
export function led(key, { layer, position }, { layers, tokens }) {
  const within = (value, count) => Math.min(count - 1, Math.max(0, value));
  return {
    ArrowLeft: { layer: within(layer - 1, layers) },
    ArrowRight: { layer: within(layer + 1, layers) },
    ArrowUp: { position: within(position - 1, tokens) },
    ArrowDown: { position: within(position + 1, tokens) },
    Home: { layer: 0 },
    End: { layer: layers - 1 },
  }[key];
}
