/** Asks /v1/inspect for the page: one question at a time, the last one wins. Knows the requests, and nothing of what is shown. */

import { t } from "../i18n.js";

const SLOW_MS = 300; // from here on a reader is told that something is under way
const FIRST_MS = 1500; // and from here on why, while nothing has been answered: the first question may have to load the weights
const MAX_WEIGHTS = 600_000; // of attention in one answer, about 12 MB of JSON; beyond it the picture goes without
const RETRIES = 10; // while the lane is full; each wait is shown

const SUMMARIES = ["norms", "layer_norm", "lens", "attribution", "prompt_attribution"];

/** All numbers, and no continuation: that takes longer than all of them. @param {import("./state.js").State} state */
export function mainRequest({ text, ablations, target, token }) {
  const chosen = { ...(target !== null && { target_position: target }), ...(token !== null && { target_token: token }) };
  return { prompt: text, summaries: SUMMARIES, top_n: 20, max_new_tokens: 0, ablations, ...chosen };
}

const quiet = { compare_served: false, top_n: 1 };
/** The rest: both continuations, and the attention where it is not too much. */
const restRequest = ({ text, ablations }, answer) => ({
  prompt: text,
  names: numWeights(answer) <= MAX_WEIGHTS ? ["blocks.*.attn.hook_pattern"] : [],
  summaries: [],
  ablations,
  max_new_tokens: 20,
  ...quiet,
});
const orderRequest = ({ text }) => ({ prompt: text, summaries: ["layer_norm_order"], max_new_tokens: 0, ...quiet });

/**
 * @param {object} app of the shell
 * @param {{onAnswer: (answer: object) => void, onRest: (answer: object) => void, onWaiting: (words: string) => void,
 *   onError: (error: unknown) => void, onOff: () => void}} events onAnswer comes with the numbers, onRest after it with the rest;
 *   onOff instead of both where the service does not inspect
 */
export function makeAsker(app, events) {
  const asker = { controller: new AbortController(), open: new Set(), hasAnswered: false, events };
  const post = async (body, signal) => {
    const told = { signal, retries: RETRIES, onRetry: (wait) => countDown(wait, signal, events.onWaiting) };
    const answer = await app.client.post("v1/inspect", body, told);
    asker.hasAnswered = true;
    return answer;
  };
  const renew = () => {
    asker.controller.abort();
    asker.controller = new AbortController();
    asker.open.clear();
  };
  return {
    stop: () => {
      renew();
      events.onWaiting("");
    },
    ask: (state) => {
      renew(); // what was said of the question before stands until there is something to say of this one
      return guarded(asker, async (signal) => {
        const isOff = await saysOff(app);
        if (signal.aborted) return;
        if (isOff) return events.onOff();
        const answer = await post(mainRequest(state), signal);
        if (signal.aborted) return;
        events.onAnswer(answer);
        const rest = await post(restRequest(state, answer), signal);
        if (!signal.aborted) events.onRest(rest);
      });
    },
    askOrder: (state, onAnswer) => guarded(asker, async (signal) => onAnswer(await post(orderRequest(state), signal))),
  };
}

/** Whether the service says that it does not inspect; where it says nothing, the question itself will be refused. */
async function saysOff(app) {
  try {
    return (await app.info()).inspect === false;
  } catch {
    return false;
  }
}

/** Run a question; say that it takes its time, what went wrong, and, if no other is under way, in the end nothing. */
async function guarded(asker, question) {
  const { events, open } = asker,
    { signal } = asker.controller;
  const say = (words) => signal.aborted || events.onWaiting(words);
  const timers = [
    setTimeout(() => say(t("xray.waiting")), SLOW_MS),
    setTimeout(() => asker.hasAnswered || say(t("xray.waiting_first")), FIRST_MS),
  ];
  open.add(question);
  try {
    await question(signal);
  } catch (error) {
    if (!signal.aborted) events.onError(error);
  } finally {
    timers.forEach(clearTimeout);
    if (open.delete(question) && !open.size) events.onWaiting("");
  }
}

/** Weights of attention in a text's answer. */
function numWeights({ tokens, run, ablated }) {
  const { heads } = run.summaries.attribution;
  return heads.length * heads[0].length * tokens.length ** 2 * (ablated ? 2 : 1);
}

/** Say each second how long the wait still is. */
function countDown({ seconds }, signal, onWaiting) {
  let left = Math.ceil(seconds);
  const tell = () => {
    if (signal.aborted || left <= 0) return clearInterval(timer);
    onWaiting(t("xray.busy", { seconds: left }));
    left -= 1;
  };
  const timer = setInterval(tell, 1000);
  tell();
}
