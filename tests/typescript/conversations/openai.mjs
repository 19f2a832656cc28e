// The application's words for OpenAI's SDK.

import OpenAI from "openai";

export const makeClient = (baseURL, apiKey, fetch) =>
  new OpenAI({ baseURL: `${baseURL}/v1`, apiKey, fetch, maxRetries: 0 });

// The final answer; what is seen on the way there goes to `seen` at once, since an error may follow.
export const ask = {
  whole: (client, request) => client.chat.completions.create(request),

  async events(client, request, seen) {
    for await (const chunk of await client.chat.completions.create({ ...request, stream: true })) {
      seen.events.push(chunk);
    }
    return null;
  },

  accumulated(client, request, seen) {
    const stream = client.chat.completions.stream(request);
    stream.on("content", (piece) => seen.pieces.push(piece));
    return stream.finalChatCompletion();
  },
};

// The answer as messages of the conversation, with the results of its tool calls.
export function said(answer, results) {
  const { message } = answer.choices[0];
  const calls = message.tool_calls ?? [];
  return [message, ...calls.map((call) => ({ ...results[call.function.name], tool_call_id: call.id }))];
}
