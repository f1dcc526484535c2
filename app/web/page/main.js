/** Starts the page: its language, tabs, facts about the model, and the API key where the service asks for one. */

import { GPT2 } from "../client.js";
import { announce } from "./dom.js";
import { explain } from "./errors.js";
import { count, language, onLanguage, setLanguage, t, translate } from "./i18n.js";
import * as route from "./route.js";
import { mount as mountWrite } from "./write/write.js";
import { mount as mountXray } from "./xray/xray.js";

/**
 * What a view gets from the shell.
 *
 * @typedef {object} App
 * @property {GPT2} client bound to this page's service and key; a 401 shows the field for the key by itself
 * @property {typeof t} t a text in the reader's language
 * @property {() => Promise<Record<string, any>>} info the answer of GET /info, asked for once
 * @property {{ replace: typeof route.replace, fragment: typeof route.fragment }} route a view's state in the address: `replace`
 *   keeps it, and writes it there while its tab is shown
 * @property {typeof announce} announce says a text to a screen reader
 * @property {() => Record<string, string>} headers of a request that a view makes itself: the key, if there is one
 * @property {(error: unknown) => string} explain an error as a sentence in the reader's language
 * @property {() => boolean} hasKey whether a key is sent, for the requests that are shown as curl
 * @property {(listener: () => void) => void} onKey tells that the reader has given a key
 */

/**
 * A view: mount(root, app) builds it inside of root at its first show, and returns this. `show` is called after that, and each time
 * that its tab is chosen or the address changes; `hide` when another tab is.
 *
 * @typedef {{ show: (params: Record<string, string>) => void, hide: () => void }} View
 */

const MOUNTS = { write: mountWrite, xray: mountXray };
/** @type {Partial<Record<route.Tab, View>>} */
const views = {};
/** What the address said when a tab was last shown. @type {Partial<Record<route.Tab, Record<string, any>>>} */
const remembered = {};
/** @type {route.Tab | null} */
let shown = null;
/** @type {Promise<Record<string, any>> | null} */
let asked = null;
/** @type {Set<() => void>} */
const keyListeners = new Set();

/** @template {HTMLElement} [E=HTMLElement] @param {string} id @returns {E} */
const $ = (id) => /** @type {E} */ (document.getElementById(id));
const key = () => sessionStorage.getItem("key");

const client = new GPT2({
  baseUrl: new URL(".", location.href),
  apiKey: key,
  fetch: async (url, init) => {
    const response = await fetch(url, init);
    if (response.status === 401) askForKey();
    return response;
  },
});

/** @type {App} */
const app = {
  client,
  t,
  info,
  route: { replace: remember, fragment: route.fragment },
  announce,
  headers: () => client.headers(),
  explain: (error) => explain(error, Boolean(key())),
  hasKey: () => Boolean(key()) || !$("key-asked").hidden,
  onKey: (listener) => keyListeners.add(listener),
};

/** Asked for once; again if that failed. @returns {Promise<Record<string, any>>} */
function info() {
  asked ??= client.get("info").catch((error) => {
    asked = null;
    throw error;
  });
  return asked;
}

/** @type {typeof route.replace} */
function remember(tab, params) {
  remembered[tab] = params;
  if (tab === shown) route.replace(tab, params);
}

// ---- tabs

/** @param {route.Tab} tab @param {Record<string, any>} params */
function show(tab, params) {
  if (shown && shown !== tab) views[shown]?.hide();
  shown = tab;
  for (const name of route.TABS) {
    const chosen = name === tab;
    $(`panel-${name}`).hidden = !chosen;
    $(`tab-${name}`).setAttribute("aria-selected", String(chosen));
    $(`tab-${name}`).tabIndex = chosen ? 0 : -1;
  }
  remembered[tab] = params;
  view(tab).show(params);
}

/** @param {route.Tab} tab @returns {View} */
function view(tab) {
  const root = tab === "xray" ? $("xray-root") : $(`panel-${tab}`);
  const made = (views[tab] ??= MOUNTS[tab](root, app));
  translate(root);
  return made;
}

/** @param {route.Tab} tab */
function choose(tab) {
  if (tab === shown) return;
  const params = remembered[tab] ?? {};
  history.pushState(null, "", route.fragment(tab, params)); // so that Back leads to the other tab
  show(tab, params);
}

/** Arrows go round the tabs, Home and End to the first and last (WAI-ARIA, tabs). @param {KeyboardEvent} event */
function moveTab(event) {
  const at = route.TABS.findIndex((tab) => tab === shown);
  const last = route.TABS.length - 1;
  const to = { ArrowRight: at === last ? 0 : at + 1, ArrowLeft: at === 0 ? last : at - 1, Home: 0, End: last }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  choose(route.TABS[to]);
  $(`tab-${route.TABS[to]}`).focus();
}

function startTabs() {
  for (const tab of route.TABS) {
    $(`tab-${tab}`).onclick = () => choose(tab);
    $(`tab-${tab}`).onkeydown = moveTab;
  }
  route.onChange(({ tab, params }) => show(tab, params));
  $("skip").onclick = (event) => {
    event.preventDefault(); // its fragment is no tab
    $("content").focus();
  };
  const { tab, params } = route.read();
  show(tab, params);
}

// ---- the language

function startLanguage() {
  document.documentElement.lang = language() === "zh" ? "zh-Hans" : "en";
  translate(document.documentElement);
  const buttons = /** @type {NodeListOf<HTMLButtonElement>} */ (document.querySelectorAll("[data-language]"));
  const mark = () => buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.language === language())));
  for (const button of buttons) button.onclick = () => setLanguage(/** @type {any} */ (button.dataset.language));
  onLanguage(mark);
  onLanguage(describeModel);
  mark();
}

// ---- the model and the key

async function describeModel() {
  try {
    const { model_id, num_parameters, dtype, device, inspect } = await info();
    $("model").textContent = t("common.model", { name: model_id, parameters: count(num_parameters), dtype, device });
    $("inspect-off").hidden = inspect !== false;
  } catch {
    // Whatever is asked for next says what is wrong.
  }
}

/** Without moving the focus: what is refused may be a request that the reader did not make. */
function askForKey() {
  if (!$("key-asked").hidden) return;
  $("key-asked").hidden = false;
  keyField().value = key() ?? "";
}

function startKey() {
  const field = keyField();
  $("key-asked").onsubmit = (event) => {
    event.preventDefault();
    sessionStorage.setItem("key", field.value.trim());
    asked = null;
    info().then(acceptKey, refuseKey);
    for (const listener of keyListeners) listener();
  };
}

/** @returns {HTMLInputElement} */
const keyField = () => $("key");

/** One that the reader has just given and that is none: it is typed over. @param {{ status?: number }} error */
function refuseKey({ status }) {
  if (status !== 401) return; // it may be right
  keyField().focus();
  keyField().select();
}

function acceptKey() {
  const hadFocus = $("key-asked").contains(document.activeElement);
  $("key-asked").hidden = true;
  if (hadFocus) $("content").focus();
  describeModel();
}

startLanguage();
startKey();
startTabs();
describeModel();
