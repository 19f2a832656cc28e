// The three endpoints behind `useChat`, as functions from Request to Response: in a Next.js app each is the body of a
// route handler. They keep nothing: which job answers which message is in the jobs' metadata.
//
// An application of yours would first ask who this is, and whether the chat is theirs.

import { randomUUID } from "node:crypto";
import { Readable } from "node:stream";
import { createUIMessageStreamResponse } from "ai";
import { parts } from "./parts.js";

/** POST /api/chat: answer the last message. Sent twice, it is one job. */
export async function answer(relay, request, { model }) {
  const { id: chat, messages, trigger } = await request.json();
  const message = messages.at(-1).id;
  const job = {
    endpoint: "/v1/messages",
    body: { model, max_tokens: 4096, stream: true, messages: messages.map(toAnthropic) },
    metadata: { chat, message },
  };
  const again = trigger === "regenerate-message";
  const { id } = await relay.submit(job, again ? randomUUID() : `${chat}-${message}`);
  return streamed(relay, id, request.signal);
}

/** GET /api/chat/{chat}/stream?message=…: the answer to this message from its start; 204 when there is none. */
export async function resume(relay, request, { chat, message }) {
  const job = message && (await relay.newest({ chat, message }));
  return job ? streamed(relay, job.id, request.signal) : new Response(null, { status: 204 });
}

/** DELETE /api/chat/{chat}?message=…: stop answering. */
export async function stop(relay, request, { chat, message }) {
  const job = message && (await relay.newest({ chat, message }));
  if (job) await relay.cancel(job.id);
  return new Response(null, { status: 204 });
}

// A browser that leaves ends the reading, and not the job.
function streamed(relay, id, signal) {
  return createUIMessageStreamResponse({ stream: Readable.toWeb(Readable.from(parts(relay.events(id, signal), id))) });
}

function toAnthropic({ role, parts }) {
  const text = parts.filter((part) => part.type === "text").map((part) => part.text);
  return { role, content: text.join("") };
}
