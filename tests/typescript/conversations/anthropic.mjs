// The application's words for Anthropic's SDK.

import Anthropic from "@anthropic-ai/sdk";

export const makeClient = (baseURL, apiKey, fetch) => new Anthropic({ baseURL, apiKey, fetch, maxRetries: 0 });

// The final answer; what is seen on the way there goes to `seen` at once, since an error may follow.
export const ask = {
  whole: (client, request) => client.messages.create(request),

  async events(client, request, seen) {
    for await (const event of await client.messages.create({ ...request, stream: true })) seen.events.push(event);
    return null;
  },

  accumulated(client, request, seen) {
    const stream = client.messages.stream(request);
    stream.on("text", (piece) => seen.pieces.push(piece));
    return stream.finalMessage();
  },
};

// The answer as messages of the conversation, with the results of its tool calls.
export function said(answer, results) {
  const calls = answer.content.filter((block) => block.type === "tool_use");
  const handedIn = calls.map((call) => ({ ...results[call.name], tool_use_id: call.id }));
  const spoken = [{ role: "assistant", content: answer.content }];
  return handedIn.length ? [...spoken, { role: "user", content: handedIn }] : spoken;
}
