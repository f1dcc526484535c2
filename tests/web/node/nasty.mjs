// Servers that answer as no good one would, and a `fetch` whose answers come in pieces.
import { createServer } from "node:http";

/** Serve with this handler until the test ends; the result is the address, to which requests of a test go. */
export async function serving(test, handler) {
  const server = createServer(handler);
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  test.after(() => {
    server.close();
    server.closeAllConnections();
  });
  return `http://127.0.0.1:${server.address().port}`;
}

export const token = (index, text, last) =>
  JSON.stringify({
    index,
    token: { id: index, text, logprob: -1, special: false },
    generated_text: last ?? null,
    details: last === undefined ? null : { finish_reason: "length", generated_tokens: index, input_length: 1, seed: 7 },
  });

/** A `fetch` that answers with these bytes, cut after every `size`. */
export function inPieces(bytes, size) {
  const pieces = function* () {
    for (let i = 0; i < bytes.length; i += size) yield bytes.subarray(i, i + size);
  };
  const source = (iterator) => ({
    pull(controller) {
      const { done, value } = iterator.next();
      if (done) controller.close();
      else controller.enqueue(value);
    },
  });
  return async () => new Response(new ReadableStream(source(pieces())), { headers: { "content-type": "text/event-stream" } });
}

export const encode = (text) => new TextEncoder().encode(text);

export async function collect(events) {
  const all = [];
  for await (const event of events) all.push(event);
  return all;
}

export const textOf = (events) => events.map((event) => event.token.text).join("");
