// An application on the official TypeScript SDK; only its base URL and key tell whether there is a relay.
//
//   node application.mjs BASE_URL KEY < CALLS
//
// CALLS is a JSON list of [method, arguments]; the answer is a JSON list of what the application saw of each.

import { readFileSync } from "node:fs";
import Anthropic from "@anthropic-ai/sdk";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new Anthropic({ baseURL, apiKey, maxRetries: 0 });

const methods = {
  async stream(body) {
    const events = [];
    const stream = client.messages.stream(body);
    stream.on("streamEvent", (event) => events.push(structuredClone(event)));
    try {
      return { final: await stream.finalMessage(), events };
    } catch (error) {
      return { ...failure(error), events };
    }
  },
  create: (body) => client.messages.create(body),
  countTokens: (body) => client.messages.countTokens(body),
  async models() {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    return ids;
  },
};

function failure(error) {
  return { raised: error.constructor.name, status: error.status ?? null, body: error.error ?? null };
}

const seen = [];
for (const [method, body] of JSON.parse(readFileSync(0, "utf8"))) {
  seen.push(await methods[method](body).catch(failure));
}
process.stdout.write(JSON.stringify(seen));
