/** A request to /generate as a command or a program that sends the same. Knows no page. */

import { toJSON } from "../../client.js";

/**
 * @typedef {{ url: string, body: Record<string, any>, needsKey: boolean }} Request  `url`: where the service is, "/" included
 */

/** @type {Record<string, (request: Request) => string>} */
export const SNIPPETS = { curl, python, javascript };

function curl({ url, body, needsKey }) {
  const key = needsKey ? ` -H "authorization: Bearer $GPT2_API_KEY"` : "";
  return `curl -N ${url}generate${key} -H 'content-type: application/json' \\\n  -d '${toJSON(body).replaceAll("'", "'\\''")}'`;
}

function python({ url, body, needsKey }) {
  const imports = needsKey ? "import json\nimport os\n\nimport requests" : "import json\n\nimport requests";
  const key = needsKey ? `headers = {"authorization": f"Bearer {os.environ['GPT2_API_KEY']}"}\n` : "";
  const headers = needsKey ? ", headers=headers" : "";
  return `${imports}

${key}body = ${literal(body)}
with requests.post("${url}generate", json=body${headers}, stream=True) as response:
    response.raise_for_status()
    for line in response.iter_lines():
        if line.startswith(b"data: "):
            print(json.loads(line[6:])["token"]["text"], end="", flush=True)
`;
}

/** JSON as Python writes it: the same but for three words, and a dictionary's first level on lines of its own. */
function literal(body) {
  const value = (item, name) => {
    if (item === null) return "None";
    if (typeof item === "boolean") return item ? "True" : "False";
    if (Array.isArray(item)) return `[${item.map((one) => value(one)).join(", ")}]`;
    if (typeof item === "object")
      return `{${Object.entries(item)
        .map(([key, one]) => `${JSON.stringify(key)}: ${value(one, key)}`)
        .join(", ")}}`;
    return toJSON(item, name);
  };
  const lines = Object.entries(body).map(([key, item]) => `    ${JSON.stringify(key)}: ${value(item, key)},`);
  return `{\n${lines.join("\n")}\n}`;
}

function javascript({ url, body, needsKey }) {
  const { stream, ...sent } = body; // the client asks for a stream by itself
  const key = needsKey ? ", apiKey: process.env.GPT2_API_KEY" : "";
  return `import { GPT2 } from "${url}client.js"; // in Node: of a copy of that file

const gpt2 = new GPT2({ baseUrl: "${url}"${key} });
const body = ${javascriptLiteral(sent)};
for await (const { token } of gpt2.generate(body)) {
  process.stdout.write(token.text);
}
`;
}

/** A seed is written as its digits in quotes, which the client sends as a number to the last one. */
function javascriptLiteral(body) {
  return JSON.stringify(body, null, 2);
}
