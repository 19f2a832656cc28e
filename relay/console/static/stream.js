// A job's stream: its text as it comes, in either dialect, and the newest of its events as they are.

const MOST_EVENTS = 200;
const answer = document.getElementById("answer");
const events = document.getElementById("events");
const state = document.getElementById("stream-state");
const newest = [];
const source = new EventSource(answer.dataset.live);

source.addEventListener("open", () => say("live", true));
source.addEventListener("head", () => say("live", true));
source.addEventListener("events", (message) => {
  for (const raw of JSON.parse(message.data)) {
    note(raw);
    for (const line of raw.split("\n")) {
      if (line.startsWith("data: {")) show(JSON.parse(line.slice(6)));
    }
  }
});
source.addEventListener("body", (message) => {
  for (const piece of JSON.parse(message.data)) append("text", piece);
});
source.addEventListener("end", () => {
  source.close();
  say("complete", false);
  if (!answer.firstChild) append("thought", "The answer has no text.");
  refresh();
});
source.addEventListener("trouble", (message) => {
  source.close();
  say(JSON.parse(message.data), false);
});
source.addEventListener("error", () => {
  if (source.readyState === EventSource.CLOSED) say("cannot be read; reload the page", false);
  else if (source.readyState === EventSource.CONNECTING) say("reconnecting", false);
});

function show(event) {
  const delta = event.delta ?? event.choices?.[0]?.delta;
  if (event.error) append("tool", `\n${event.error.message ?? JSON.stringify(event.error)}\n`);
  if (event.type === "content_block_start" && event.content_block.type === "tool_use") {
    append("tool", `\n${event.content_block.name} `);
  }
  if (!delta) return;
  append("thought", delta.thinking ?? delta.reasoning_content);
  append("text", delta.text ?? delta.content ?? delta.refusal);
  append("tool", delta.partial_json);
  for (const call of delta.tool_calls ?? []) append("tool", (call.function?.name ?? "") + (call.function?.arguments ?? ""));
}

// Text goes in as text, never as markup.
function append(kind, text) {
  if (typeof text !== "string" || !text) return;
  const atEnd = answer.scrollHeight - answer.scrollTop - answer.clientHeight < 40;
  if (answer.lastChild?.className !== kind) {
    answer.append(Object.assign(document.createElement("span"), { className: kind }));
  }
  answer.lastChild.append(text);
  if (atEnd) answer.scrollTop = answer.scrollHeight;
}

let isNoted = false;
function note(raw) {
  newest.push(raw.trimEnd());
  if (newest.length > MOST_EVENTS) newest.shift();
  if (isNoted) return;
  isNoted = true;
  requestAnimationFrame(() => {
    isNoted = false;
    events.textContent = newest.join("\n\n");
  });
}

function say(words, isOn) {
  state.textContent = words;
  state.classList.toggle("on", isOn);
}

// The facts once more: when the job has ended here, and when the ledger has stored its calls.
async function refresh() {
  const facts = document.getElementById("facts");
  if (facts.dataset.ended === "yes") return;
  for (const pause of [300, 2000]) {
    await new Promise((done) => setTimeout(done, pause));
    const reply = await fetch(location.href);
    if (!reply.ok) return;
    const page = new DOMParser().parseFromString(await reply.text(), "text/html");
    document.getElementById("facts").replaceWith(page.getElementById("facts"));
    if (document.querySelector(".call")) return;
  }
}
