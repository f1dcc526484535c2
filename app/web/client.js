/**
 * The client of a GPT-2 service: streams of tokens, whole answers, errors. No dependencies; for browsers and Node from 18 on.
 *
 *     import { GPT2 } from "http://127.0.0.1:8000/client.js";
 *     const gpt2 = new GPT2();                       // the service that this file came from
 *     const leave = new AbortController();
 *     for await (const { token } of gpt2.generate({ inputs: "The sea" }, { signal: leave.signal })) show(token.text);
 *
 * Leaving the loop ends the request, and so does the signal. A page of another origin may load this file and ask the service if
 * GPT2_CORS_ORIGINS names that origin. In Node keep a copy of it as client.mjs, and name the service: new GPT2({ baseUrl }).
 *
 * What goes wrong is thrown: ServiceError for what the service says, before the first event or as an event; ConnectionLost where
 * nobody answered, or where the connection ended before the text did; the signal's reason where it aborted. Bodies and answers
 * are those of docs/api.md, but for seeds: they go up to 2^64, and a JavaScript number is exact up to 2^53 alone. So a seed may be
 * given as a BigInt or as its digits too, and one that comes back with 16 digits or more is a string of them.
 *
 * @module
 */

/**
 * @typedef {{ id: number, text: string, logprob: number | null, special: boolean }} Token
 * @typedef {{ finish_reason: "length" | "eos_token" | "stop_sequence", generated_tokens: number, input_length: number,
 *   seed: number | string, max_new_tokens?: number }} Details of a text that is complete; `max_new_tokens` where the context had
 *   no room for as many as were asked for
 * @typedef {{ index: number, token: Token, sample?: number, top_tokens?: Token[], generated_text: string | null,
 *   details: Details | null }} TokenEvent of /generate; the last one of each sample carries its text and details
 * @typedef {{ attempt: number, seconds: number, error: ServiceError }} Wait before the request is sent once more
 * @typedef {object} Options
 * @property {AbortSignal} [signal] ends the request, or the wait before it is sent again
 * @property {number} [retries] how often a request is sent again that the service has no room for; those of the client if absent
 * @property {(wait: Wait) => void} [onRetry] told before each wait
 * @property {(response: Response) => void} [onOpen] told when the service has taken the request, with its answer's headers
 */

/** What the service says of a request that failed. */
export class ServiceError extends Error {
  /** @param {Response} response @param {any} body of either dialect @param {boolean} [isEvent] */
  constructor(response, body, isEvent = false) {
    const told = typeof body?.error === "string" ? { message: body.error, code: body.error_type } : body?.error;
    super(told?.message || response.statusText || `HTTP status ${response.status}`);
    const wait = Number.parseFloat(response.headers.get("retry-after") ?? "");
    this.name = "ServiceError";
    this.status = response.status;
    /** Whether it came in the middle of a stream, whose status was 200. */
    this.isEvent = isEvent;
    /** @type {string | null} as docs/api.md lists them: "validation", "overloaded", ... */
    this.code = told?.code ?? null;
    /** @type {string | null} the field that is at fault, which is told under /v1 */
    this.param = told?.param ?? null;
    /** @type {number | null} seconds, where the service says when to come back */
    this.retryAfter = Number.isNaN(wait) ? null : wait;
    /** @type {string | null} by which the service's log has the request */
    this.requestId = response.headers.get("x-request-id");
  }
}

/** Nobody answered, or the connection ended before the answer did. */
export class ConnectionLost extends Error {
  /** @param {string} message @param {unknown} [cause] */
  constructor(message, cause) {
    super(message, { cause });
    this.name = "ConnectionLost";
  }
}

export class GPT2 {
  /**
   * `baseUrl` is where the service is, with its path if it is behind a proxy's; `apiKey` a key, or what returns one, asked before
   * each request; `retries` how often a request is sent again after a 429 or 503 that says when, if that is `maxWaitSeconds` or less.
   *
   * @param {{ baseUrl?: string | URL, apiKey?: string | (() => string | null), retries?: number, maxWaitSeconds?: number,
   *   fetch?: typeof fetch }} [settings]
   */
  constructor(settings = {}) {
    const { baseUrl = new URL(".", import.meta.url), apiKey = "", retries = 2, maxWaitSeconds = 60 } = settings;
    this.baseUrl = new URL(String(baseUrl).replace(/\/*$/, "/"));
    if (!this.baseUrl.protocol.startsWith("http")) throw new TypeError(`${this.baseUrl} is no service; name one: new GPT2({ baseUrl })`);
    this.retries = retries;
    this.maxWaitSeconds = maxWaitSeconds;
    this._key = typeof apiKey === "function" ? apiKey : () => apiKey;
    this._fetch = settings.fetch ?? ((/** @type {any} */ url, /** @type {any} */ init) => fetch(url, init));
  }

  /**
   * The events of POST /generate, one a token. Ends when every sample has, or throws.
   *
   * @param {{ inputs?: string | number[], parameters?: Record<string, any> }} body
   * @param {Options} [options]
   * @returns {AsyncGenerator<TokenEvent, void, void>}
   */
  async *generate(body, options) {
    let open = Math.max(Number(body.parameters?.n ?? 1), 1); // samples without their last event
    for await (const event of this._events("generate", body, options)) {
      if (event.details) open -= 1;
      yield event;
    }
    if (open > 0) throw new ConnectionLost("The connection ended before the text did.");
  }

  /**
   * The chunks of POST /v1/completions, as OpenAI has them.
   *
   * @param {Record<string, any>} body
   * @param {Options} [options]
   */
  complete(body, options) {
    return this._chunks("v1/completions", body, options);
  }

  /**
   * The chunks of POST /v1/chat/completions, as OpenAI has them.
   *
   * @param {Record<string, any>} body
   * @param {Options} [options]
   */
  chat(body, options) {
    return this._chunks("v1/chat/completions", body, options);
  }

  /**
   * A whole answer to a body: JSON, text or, of any other type, bytes.
   *
   * @param {string} path relative to the service, as in "v1/score"
   * @param {Record<string, any>} body
   * @param {Options} [options]
   * @returns {Promise<any>}
   */
  post(path, body, options) {
    return this._whole(path, { method: "POST", body: toJSON(body) }, options);
  }

  /**
   * The same of a GET, as of "info" or "metrics".
   *
   * @param {string} path
   * @param {Options} [options]
   * @returns {Promise<any>}
   */
  get(path, options) {
    return this._whole(path, { method: "GET" }, options);
  }

  /** @param {string} path @param {RequestInit} init @param {Options} [options] */
  async _whole(path, init, options) {
    const response = await this._send(path, init, options);
    const type = response.headers.get("content-type") ?? "";
    try {
      if (type.startsWith("application/json")) return fromJSON(await response.text());
      return await (type.startsWith("text/") ? response.text() : response.arrayBuffer());
    } catch (error) {
      throw broken(error, options?.signal);
    }
  }

  /** @param {string} path @param {Record<string, any>} body @param {Options} [options] @returns {AsyncGenerator<any, void, void>} */
  async *_chunks(path, body, options) {
    let done = false;
    for await (const chunk of this._events(path, body, options, () => (done = true))) yield chunk;
    if (!done) throw new ConnectionLost("The connection ended before the text did.");
  }

  /**
   * The data of a stream's events, up to `[DONE]` or the end. Whoever leaves, or throws, ends the request.
   *
   * @param {string} path @param {Record<string, any>} body @param {Options} [options] @param {() => void} [onDone]
   * @returns {AsyncGenerator<any, void, void>}
   */
  async *_events(path, body, options, onDone) {
    const response = await this._send(path, { method: "POST", body: toJSON({ ...body, stream: true }) }, options);
    try {
      for await (const data of eventData(response)) {
        if (data === "[DONE]") return onDone?.();
        options?.signal?.throwIfAborted(); // events that have come already are not told any more
        const event = fromJSON(data);
        if (event.error) throw new ServiceError(response, event, true);
        yield event;
      }
    } catch (error) {
      throw broken(error, options?.signal);
    }
  }

  /** Send until it is taken, refused for good or has been sent often enough. @param {string} path @param {RequestInit} init @param {Options} [options] */
  async _send(path, init, options = {}) {
    const retries = options.retries ?? this.retries;
    for (let attempt = 1; ; attempt += 1) {
      const response = await this._request(path, init, options.signal);
      if (response.ok) {
        options.onOpen?.(response);
        return response;
      }
      const error = new ServiceError(response, await response.json().catch(() => null));
      const seconds = [429, 503].includes(error.status) ? error.retryAfter : null;
      if (seconds === null || seconds > this.maxWaitSeconds || attempt > retries) throw error;
      options.onRetry?.({ attempt, seconds, error });
      await pause(seconds, options.signal);
    }
  }

  /** @param {string} path @param {RequestInit} init @param {AbortSignal} [signal] */
  async _request(path, init, signal) {
    const headers = this.headers(init.body ? { "content-type": "application/json" } : {});
    try {
      return await this._fetch(new URL(path, this.baseUrl), { ...init, headers, signal });
    } catch (error) {
      throw broken(error, signal);
    }
  }

  /** The headers of a request, with the key if there is one. @param {Record<string, string>} [more] */
  headers(more = {}) {
    const key = this._key();
    if (key && !/^[!-~]+$/.test(key)) throw new TypeError("an API key has visible ASCII characters alone");
    return key ? { ...more, authorization: `Bearer ${key}` } : more;
  }
}

/**
 * The data of each event of a response, as WHATWG's HTML has server-sent events: lines end with LF, CR or CRLF, an empty one ends
 * an event, what begins with a colon is a comment; a chunk may end anywhere, even inside a character. Leaving cancels the response.
 *
 * @param {Response} response
 * @returns {AsyncGenerator<string, void, void>}
 */
export async function* eventData(response) {
  if (!response.body) return;
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  /** @type {string[]} */
  let data = [];
  try {
    for (let ended = false; !ended; ) {
      const { done, value } = await reader.read();
      ended = done;
      rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const lines = rest.split(done ? /\r\n|\r|\n/ : /\r\n|\r(?!$)|\n/); // a CR at the end may be half of a CRLF
      rest = lines.pop() ?? "";
      for (const line of lines) {
        if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
        else if (line === "data") data.push("");
        if (line === "" && data.length) yield data.splice(0).join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** What a broken connection is thrown as; what was aborted, or thrown on purpose, stays as it is. @param {unknown} error @param {AbortSignal} [signal] */
function broken(error, signal) {
  if (signal?.aborted) return signal.reason;
  if (error instanceof ServiceError || error instanceof ConnectionLost) return error;
  return new ConnectionLost("The service cannot be reached, or the connection broke.", error);
}

/** @param {number} seconds @param {AbortSignal} [signal] @returns {Promise<void>} */
function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const leave = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", leave);
      resolve();
    }, 1000 * seconds);
    signal?.addEventListener("abort", leave, { once: true });
  });
}

/**
 * JSON in which a BigInt, and a seed that is given as its digits, is a number to the last digit.
 *
 * @param {any} value
 * @param {string} [name] of the field
 * @returns {string}
 */
export function toJSON(value, name) {
  if (typeof value === "bigint" || (name === "seed" && /^\d+$/.test(value))) return String(BigInt(value));
  if (Array.isArray(value)) return `[${value.map((item) => toJSON(item ?? null)).join()}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const fields = Object.entries(value).filter(([, item]) => item !== undefined);
  return `{${fields.map(([key, item]) => `${JSON.stringify(key)}:${toJSON(item, key)}`).join()}}`;
}

/** Its inverse: a seed of 16 digits and more stays a string of them. @param {string} text @returns {any} */
export function fromJSON(text) {
  // Inside of a string the name's quotes would have a backslash.
  return JSON.parse(text.replace(/"seed":(\d{16,})/g, '"seed":"$1"'));
}
