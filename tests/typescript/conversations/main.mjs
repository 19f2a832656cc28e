// An application on one of the official TypeScript SDKs. It does and reports what those on the Python SDKs do, as
// described in tests/e2e/conversations/applications.py; only its base URL and key tell whether there is a relay.
//
//   node main.mjs anthropic|openai BASE_URL KEY < CONVERSATIONS
//
// CONVERSATIONS is a JSON list of lists of steps; the answer is a JSON list of lists of what was seen.

import { text } from "node:stream/consumers";

const [vendor, baseURL, key] = process.argv.slice(2);
const { makeClient, ask, said } = await import(`./${vendor}.mjs`);

// A client for each conversation, as each notes what it sees on the wire: not all stream helpers show the headers.
async function converse(steps) {
  const report = [];
  const client = makeClient(baseURL, key, async (url, init) => {
    const response = await fetch(url, init);
    Object.assign(report.at(-1), { sent: JSON.parse(init.body), headers: Object.fromEntries(response.headers) });
    return response;
  });
  let history = [];
  let answer = null;
  for (const { way, request, opening, messages, results, afresh } of steps) {
    const before = answer === null || afresh ? opening : [...history, ...said(answer, results)];
    history = [...before, ...messages];
    const seen = { way, answer: null, events: [], pieces: [], error: null, headers: {} };
    report.push(seen);
    try {
      seen.answer = answer = await ask[way](client, { ...request, messages: history }, seen);
    } catch (error) {
      seen.error = described(error);
      break;
    }
  }
  return report;
}

function described(error) {
  const kinds = [];
  for (let kind = error.constructor; kind.name; kind = Object.getPrototypeOf(kind)) kinds.push(kind.name);
  return { kinds, message: error.message, status: error.status ?? null };
}

const conversations = JSON.parse(await text(process.stdin));
process.stdout.write(JSON.stringify(await Promise.all(conversations.map(converse))));
