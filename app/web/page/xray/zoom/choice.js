/** One of several, chosen by mouse or arrow keys: a radio group with a roving tabindex. Knows not what is chosen. */

const STEPS = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 };

/**
 * Make `items`, somewhere inside of `node`, choices of each other.
 *
 * @param {HTMLElement | SVGElement} node
 * @param {(HTMLElement | SVGElement)[]} items
 * @param {string} name what a screen reader calls the group
 * @param {(index: number) => void} onChoose
 * @returns {{ node: HTMLElement | SVGElement, show: (index: number) => void }} show marks one and tells nobody
 */
export function choice(node, items, name, onChoose) {
  let shown = -1;
  const mark = (index, is) => {
    items[index].setAttribute("aria-checked", String(is));
    items[index].setAttribute("tabindex", is ? "0" : "-1");
  };
  const show = (index) => {
    if (index === shown || !items[index]) return;
    if (shown >= 0) mark(shown, false);
    mark((shown = index), true);
    keepInView(node, items[index]);
  };
  node.setAttribute("role", "radiogroup");
  node.setAttribute("aria-label", name);
  items.forEach((item, i) => {
    item.setAttribute("role", "radio");
    mark(i, false);
    item.onclick = () => onChoose(i);
  });
  node.onkeydown = (event) => {
    const to = target(event, shown, items.length);
    if (to === null) return;
    event.preventDefault();
    event.stopPropagation(); // of those around, whose arrows mean something else
    onChoose(to);
    items[shown].focus({ preventScroll: true });
  };
  return { node, show };
}

/** @param {KeyboardEvent} event @param {number} shown @param {number} count where a key leads, or null */
function target({ key, altKey, ctrlKey, metaKey }, shown, count) {
  if (altKey || ctrlKey || metaKey) return null;
  if (key === "Home") return 0;
  if (key === "End") return count - 1;
  return key in STEPS ? Math.min(count - 1, Math.max(0, shown + STEPS[key])) : null;
}

/** Scroll a box alone, never the page, until one of its items is seen whole. @param {any} box @param {any} item */
export function keepInView(box, item) {
  const outer = box.getBoundingClientRect();
  const inner = item.getBoundingClientRect();
  const beyond = (low, high, from, to) => (low < from ? low - from : high > to ? high - to : 0);
  const across = beyond(inner.left, inner.right, outer.left, outer.right);
  const down = beyond(inner.top, inner.bottom, outer.top, outer.bottom);
  if (across) box.scrollLeft += across;
  if (down) box.scrollTop += down;
}
