// Shows the answer of a job while it is written: every word once, whatever happens to the page or the network.
//
// EventSource comes back by itself and says which event it saw last; the relay goes on behind it. A page that was
// reloaded has forgotten the text, so it asks for a snapshot: what was said so far in a few events. Only the last of
// these has an id. Whoever is cut off before it has seen nothing yet, and starts over.

const RETRY_MS = 1500;

// EventSource tells of named events only to those who ask for them by name. OpenAI's have none, and come as "message".
const NAMES = [
  "message",
  "message_start",
  "content_block_start",
  "content_block_delta",
  "content_block_stop",
  "message_delta",
  "message_stop",
];

/**
 * Watch a job. `relay` is the relay's address, `token` a stream token for the job.
 * `onText(text)` gets the whole text whenever it has grown, `onState(state)` words for a person; "complete" is the last.
 */
export function watch({ relay, job, token }, { onText, onState }) {
  const address = `${relay}/v1/jobs/${job}`;
  let text = "";
  let lastId = "";

  function open() {
    const from = lastId ? `last_event_id=${lastId}` : "snapshot=1";
    const source = new EventSource(`${address}/stream?token=${token}&${from}`);

    const end = (state) => {
      source.close();
      onState(state);
    };

    source.onopen = () => {
      if (!lastId) onText((text = ""));
      onState("live");
    };

    for (const name of NAMES) {
      source.addEventListener(name, (event) => {
        lastId = event.lastEventId;
        if (event.data === "[DONE]" || name === "message_stop") return end("complete");
        const said = JSON.parse(event.data);
        if (said.error) return end(said.error.message);
        const more = textIn(said);
        if (more) onText((text += more));
      });
    }

    // Two things have this name: an error in the stream, which has data, and trouble with the connection.
    source.addEventListener("error", (event) => {
      if (event.data) return end(JSON.parse(event.data).error.message);
      onState("reconnecting");
      if (source.readyState === EventSource.CLOSED) askWhy(end);
    });
  }

  // EventSource gives up on any answer but a stream, and does not say which it was.
  async function askWhy(end) {
    try {
      const answer = await fetch(`${address}?token=${token}`);
      const said = await answer.json();
      if (answer.ok && said.timings.ended_ms && said.last_event === lastId) return end(said.status);
      if (answer.status >= 400 && answer.status < 500) return end(said.detail);
    } catch {
      // No network, or nobody at the other end: later, perhaps.
    }
    setTimeout(open, RETRY_MS);
  }

  open();
}

// The text in one event of either dialect.
function textIn(said) {
  if (said.choices) return said.choices[0]?.delta?.content;
  return said.delta?.text ?? said.content_block?.text;
}
