/** The three levels of zoom: the way back to the flow, and the views of a block and a head, which page/xray/zoom/ makes. */

import { clear, el } from "../dom.js";
import { t } from "../i18n.js";

/** The level that Escape leads back to. @param {"block" | "head"} level */
export const above = (level) => (level === "head" ? "block" : "flow");

/**
 * @param {object} view of the tab
 * @param {object} app
 * @param {(choice: object) => void} onOpen a level, or a choice in it
 */
export function makeLevels(view, app, onOpen) {
  const zoom = makeZoom(view.zoom, app, onOpen);
  const show = (answered, state) => {
    view.flow.hidden = state.level !== "flow";
    view.zoom.hidden = state.level === "flow";
    fillCrumbs(view.crumbs, state, onOpen);
    if (state.level === "flow") zoom.close();
    else zoom.show(answered, state);
  };
  const focus = () => view.crumbs.querySelector("[aria-current]").focus();
  return { show, focus, close: zoom.close };
}

/** @param {HTMLElement} list @param {import("./state.js").State} state @param {(choice: {level: string}) => void} onOpen */
function fillCrumbs(list, { level, layer, head }, onOpen) {
  const steps = [["flow", t("xray.crumb_flow")]];
  if (level !== "flow") steps.push(["block", t("xray.crumb_block", { block: layer })]);
  if (level === "head") steps.push(["head", t("xray.crumb_head", { head })]);
  const crumb = ([name, words]) =>
    name === level
      ? el("span", { "aria-current": "page", tabIndex: -1 }, words)
      : el("button", { type: "button", class: "quiet", "data-level": name, onclick: () => onOpen({ level: name }) }, words);
  clear(list).append(...steps.map((step) => el("li", null, crumb(step))));
}

function makeZoom(root, app, onSelect) {
  let mounted = null,
    wanted = null;
  const close = () => {
    mounted?.destroy();
    mounted = wanted = null;
    clear(root);
  };
  const show = async ({ answer, ablations }, state) => {
    wanted = { answer, ablations, ...viewOf(state) };
    if (mounted) return mounted.update(wanted);
    const { mountZoom } = await import("./zoom/zoom.js"); // read when it is first wanted
    if (wanted && !mounted) mounted = mountZoom(root, { app, ...wanted, onSelect });
  };
  return { show, close };
}

/** The part of the state that a block's and a head's view need. */
function viewOf({ level, layer, head, position, key, part, step, run }) {
  return { level, layer, head, position, key, part, step, run };
}
