// A chat with `useChat` that may be reloaded in the middle of an answer.
//
// What is kept for a reload are whole messages only: an answer that is being written comes again from the relay, from
// its start. sessionStorage stands for your database here.

import { useEffect, useState } from "react";
import { createRoot } from "react-dom/client";
import { useChat } from "@ai-sdk/react";
import { DefaultChatTransport, generateId } from "ai";

const RETRY_MS = 1000;

const chat = (sessionStorage.chat ??= generateId());
const kept = () => JSON.parse(sessionStorage.messages ?? "[]");
const keep = (messages) => (sessionStorage.messages = JSON.stringify(messages));

// The message that waits for an answer, if one does.
const unanswered = () => {
  const last = kept().at(-1);
  return last?.role === "user" ? last.id : "";
};

const transport = new DefaultChatTransport({
  api: "/api/chat",
  prepareReconnectToStreamRequest: ({ api, id }) => ({ api: `${api}/${id}/stream?message=${unanswered()}` }),
});

function Chat() {
  const [draft, setDraft] = useState("");
  const { messages, sendMessage, status, stop, resumeStream, error } = useChat({
    id: chat,
    messages: kept(),
    transport,
    resume: true,
    onFinish: ({ messages, isError }) => isError || keep(messages),
    // The network, and not the answer: it goes on without us, and we come back to it.
    onError: (error) => error instanceof TypeError && setTimeout(resumeStream, RETRY_MS),
  });

  useEffect(() => {
    if (messages.at(-1)?.role === "user") keep(messages);
  }, [messages]);

  const send = (event) => {
    event.preventDefault();
    sendMessage({ text: draft });
    setDraft("");
  };

  // `stop` alone only stops listening.
  const cancel = async () => {
    const message = unanswered();
    await fetch(`/api/chat/${chat}?message=${message}`, { method: "DELETE" });
    await stop();
  };

  const busy = status === "submitted" || status === "streaming";
  return (
    <>
      {messages.map(({ id, role, parts }) => (
        <article key={id} data-role={role}>
          {parts.filter((part) => part.type === "text").map((part) => part.text)}
        </article>
      ))}
      <form onSubmit={send}>
        <input aria-label="message" value={draft} onChange={(event) => setDraft(event.target.value)} />
        <button disabled={busy}>Send</button>
        <button type="button" disabled={!busy} onClick={cancel}>
          Stop
        </button>
      </form>
      <p role="status">{error ? error.message : status}</p>
    </>
  );
}

createRoot(document.querySelector("main")).render(<Chat />);
