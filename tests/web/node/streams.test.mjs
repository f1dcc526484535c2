// What the client makes of streams that are cut, broken, refused or left, without a service.
import assert from "node:assert/strict";
import { test } from "node:test";
import { collect, encode, inPieces, serving, textOf, token } from "./nasty.mjs";

const { ConnectionLost, GPT2, ServiceError, fromJSON, toJSON } = await import(process.env.GPT2_CLIENT);
const at = (baseUrl, settings) => new GPT2({ baseUrl, ...settings });
const fed = (text, size = 1) => at("http://service", { fetch: inPieces(encode(text), size) });
const TEXT = ["naïve", "té ", "日本", "🙂", "\n\n", "data: "];
const EVENTS = TEXT.map((text, i) => token(i + 1, text, i === TEXT.length - 1 ? TEXT.join("") : undefined));

test("a stream that is cut anywhere gives the same events", async () => {
  const whole = EVENTS.map((event) => `data: ${event}\n\n`).join("");
  for (let size = 1; size < 40; size += 1) {
    const events = await collect(fed(whole, size).generate({ inputs: "a" }));
    assert.equal(textOf(events), TEXT.join(""));
    assert.equal(events.at(-1).generated_text, TEXT.join(""));
  }
});

for (const [name, end] of Object.entries({ LF: "\n", CRLF: "\r\n", CR: "\r" })) {
  test(`lines that end with ${name} are lines, cut anywhere`, async () => {
    const stream = EVENTS.map((event) => `: ping${end}${end}event: token${end}data:${event}${end}id: 1${end}${end}`).join("");
    for (const size of [1, 2, 3, 5, 1000]) assert.equal(textOf(await collect(fed(stream, size).generate({}))), TEXT.join(""));
  });
}

test("data over several lines, a byte order mark and an event without data are read as the standard has it", async () => {
  const [first, ...others] = token(1, "a", "a").split(",");
  const stream = `\ufeff: hello\n\nretry: 5\n\ndata: ${first},\n${`data: ${others.join(",")}`}\n\n`;
  for (const size of [1, 1000]) assert.equal(textOf(await collect(fed(stream, size).generate({}))), "a");
});

test("what follows the last empty line is no event", async () => {
  const stream = `data: ${token(1, "a", "a")}\n\ndata: ${token(2, "b")}`;
  assert.equal(textOf(await collect(fed(stream).generate({}))), "a");
});

test("an end before the last event is a lost connection", async () => {
  const seen = [];
  const reading = async (client, body) => {
    for await (const event of client.generate(body)) seen.push(event.token.text);
  };
  await assert.rejects(reading(fed(`data: ${token(1, "a")}\n\n`), {}), ConnectionLost);
  assert.deepEqual(seen, ["a"]);
  await assert.rejects(reading(fed(""), {}), ConnectionLost);
  const one_of_two = `data: ${token(1, "a", "a")}\n\n`;
  await assert.rejects(reading(fed(one_of_two), { parameters: { n: 2 } }), ConnectionLost);
  await assert.rejects(collect(fed('data: {"choices":[]}\n\n').complete({})), ConnectionLost);
  assert.deepEqual(await collect(fed('data: {"choices":[]}\n\ndata: [DONE]\n\n').chat({})), [{ choices: [] }]);
});

test("a connection that breaks is a lost connection, with its cause, after the events that came", async (t) => {
  const url = await serving(t, (request, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(`data: ${token(1, "a")}\n\n`, () => setTimeout(() => response.destroy(), 50));
  });
  const seen = [];
  await assert.rejects(
    async () => {
      for await (const event of at(url).generate({})) seen.push(event.token.text);
    },
    (error) => error instanceof ConnectionLost && error.cause !== undefined,
  );
  assert.deepEqual(seen, ["a"]);
});

test("nobody there is a lost connection, for streams and for answers", async (t) => {
  const url = await serving(t, (request) => request.socket.destroy());
  await assert.rejects(collect(at(url).generate({})), ConnectionLost);
  await assert.rejects(at(url).get("info"), ConnectionLost);
});

test("an error in the middle of a stream is the service's", async () => {
  const native = `data: ${token(1, "a")}\n\ndata: {"error":"the step failed","error_type":"generation"}\n\n`;
  await assert.rejects(collect(fed(native).generate({})), (error) => {
    assert.ok(error instanceof ServiceError);
    assert.deepEqual([error.message, error.code, error.isEvent], ["the step failed", "generation", true]);
    return true;
  });
  const openai = 'data: {"error":{"message":"too late","type":"server_error","param":null,"code":"timeout"}}\n\n';
  await assert.rejects(collect(fed(openai).complete({})), { name: "ServiceError", message: "too late", code: "timeout" });
});

/** Refuse so many requests with this status and Retry-After, then stream one token; the requests' keys are kept. */
function refusing(t, times, status, wait) {
  const keys = [];
  const url = serving(t, (request, response) => {
    keys.push(request.headers.authorization);
    request.resume();
    if (keys.length > times) return response.end(`data: ${token(1, "a", "a")}\n\n`);
    response.writeHead(status, { "retry-after": wait, "x-request-id": "r1" });
    response.end('{"error":"full","error_type":"overloaded"}');
  });
  return { keys, url };
}

test("a full service is asked again after the time that it names, and the waits are told", async (t) => {
  for (const status of [429, 503]) {
    const { keys, url } = refusing(t, 2, status, "0.01");
    const waits = [];
    const opened = [];
    const client = at(await url, { apiKey: () => `key-${keys.length}` });
    const options = { onRetry: (wait) => waits.push(wait), onOpen: (response) => opened.push(response.status) };
    assert.equal(textOf(await collect(client.generate({}, options))), "a");
    assert.deepEqual(keys, ["Bearer key-0", "Bearer key-1", "Bearer key-2"]);
    assert.deepEqual(opened, [200]);
    assert.deepEqual(waits.map(({ attempt, seconds, error }) => [attempt, seconds, error.status]), [[1, 0.01, status], [2, 0.01, status]]);
  }
});

test("a service that stays full is asked as often as it is said and no more", async (t) => {
  const { keys, url } = refusing(t, 9, 429, "0");
  const client = at(await url, { retries: 3 });
  const busy = { name: "ServiceError", status: 429, retryAfter: 0, message: "full", code: "overloaded", requestId: "r1" };
  await assert.rejects(collect(client.generate({})), busy);
  assert.equal(keys.length, 4);
  await assert.rejects(collect(client.generate({}, { retries: 0 })), busy);
  assert.equal(keys.length, 5);
});

test("a wait that is too long, or of which nothing is said, is thrown at once", async (t) => {
  for (const [status, wait] of [[429, "61"], [503, ""], [500, "0"]]) {
    const { keys, url } = refusing(t, 9, status, wait);
    await assert.rejects(at(await url).get("info"), { status });
    assert.equal(keys.length, 1);
  }
});

test("a wait ends with the signal, and so does a request that comes after it", async (t) => {
  const { keys, url } = refusing(t, 9, 429, "50");
  const leave = new AbortController();
  const reason = new Error("enough");
  const options = { signal: leave.signal, onRetry: () => leave.abort(reason) };
  await assert.rejects(collect(at(await url).generate({}, options)), reason);
  await assert.rejects(at(await url).post("v1/score", {}, { signal: leave.signal }), reason);
  assert.equal(keys.length, 1);
});

test("leaving the loop and the signal both close the connection", async (t) => {
  let closed;
  const url = await serving(t, (request, response) => {
    response.writeHead(200);
    response.write(`data: ${token(1, "a")}\n\ndata: ${token(2, "b")}\n\n`);
    closed = new Promise((resolve) => response.on("close", resolve));
  });
  for await (const event of at(url).generate({})) {
    assert.equal(event.token.text, "a");
    break;
  }
  await closed;
  const leave = new AbortController();
  const seen = [];
  await assert.rejects(
    async () => {
      for await (const event of at(url).generate({}, { signal: leave.signal })) {
        seen.push(event.token.text);
        leave.abort();
      }
    },
    { name: "AbortError" },
  );
  assert.deepEqual(seen, ["a"], "not the one that had come with it");
  await closed;
});

test("numbers of any size are written to the last digit, and long seeds read so", () => {
  const body = { seed: "18446744073709551615", list: [1n, undefined, { seed: 5 }], none: undefined, text: '"seed":12345678901234567890', no: null };
  const json = toJSON(body);
  assert.match(json, /^\{"seed":18446744073709551615,"list":\[1,null,\{"seed":5\}\],"text":/);
  const { seed, list, text, no } = fromJSON(json);
  assert.deepEqual([seed, list[2].seed, text, no], [body.seed, 5, body.text, null]);
  assert.equal(toJSON({ seed: "x7" }), '{"seed":"x7"}');
  assert.equal(toJSON({ seed: 2n ** 64n - 1n }), '{"seed":18446744073709551615}');
});

test("a client without a service, and a key that no header can carry, are refused in words", async () => {
  assert.throws(() => new GPT2(), /no service; name one/); // this file came from no server
  await assert.rejects(at("http://service", { apiKey: "钥匙" }).get("info"), /visible ASCII/);
});
