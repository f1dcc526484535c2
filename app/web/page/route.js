/**
 * The address's fragment as state: "#write", or "#xray?text=The%20sea&layer=3". Knows the tabs' names, and no view.
 *
 * A link with a fragment reproduces a view, and the fragment is never sent to the service.
 */

/** @typedef {"write" | "xray"} Tab */
/** @typedef {{ tab: Tab, params: Record<string, string> }} Route */

/** @type {Tab[]} */
export const TABS = ["write", "xray"];

/**
 * What the address says; a tab that is not there is the first.
 *
 * @returns {Route}
 */
export function read() {
  const [name, query = ""] = splitOnce(location.hash.slice(1), "?");
  const tab = TABS.find((known) => known === name) ?? TABS[0];
  return { tab, params: Object.fromEntries(new URLSearchParams(query)) };
}

/**
 * The fragment of a view, "#" included: what `replace` writes, for links. Null, undefined and "" are left out.
 *
 * @param {Tab} tab
 * @param {Record<string, string | number | null | undefined>} [params]
 * @returns {string}
 */
export function fragment(tab, params = {}) {
  const told = Object.entries(params).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const query = new URLSearchParams(told.map(([name, value]) => [name, String(value)])).toString();
  return query ? `#${tab}?${query}` : `#${tab}`;
}

/**
 * Write the state into the address without a step in the history; nobody is told.
 *
 * @param {Tab} tab
 * @param {Record<string, string | number | null | undefined>} [params]
 */
export function replace(tab, params) {
  history.replaceState(null, "", fragment(tab, params));
}

/**
 * Be told when a reader changes the address or follows a link; the result ends that.
 *
 * @param {(route: Route) => void} listener
 * @returns {() => void}
 */
export function onChange(listener) {
  const told = () => listener(read());
  addEventListener("hashchange", told);
  return () => removeEventListener("hashchange", told);
}

/** @param {string} text @param {string} by @returns {string[]} */
function splitOnce(text, by) {
  const at = text.indexOf(by);
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + by.length)];
}
