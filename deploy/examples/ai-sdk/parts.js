// Anthropic's events as the parts of an AI SDK message. Text and thinking; tools would be two more rows of the table.

const KINDS = { text: "text", thinking: "reasoning" };
const REASONS = { end_turn: "stop", stop_sequence: "stop", max_tokens: "length", refusal: "content-filter" };

/** The parts of the message that these events are. The message has the job's id, so that a replay is the same one. */
export async function* parts(events, messageId) {
  const kinds = new Map(); // of open blocks, by index
  let finishReason = "other";
  yield { type: "start", messageId };
  yield { type: "start-step" };
  for await (const { data } of told(events)) {
    const said = JSON.parse(data);
    const id = String(said.index);
    switch (said.type) {
      case "content_block_start": {
        const kind = KINDS[said.content_block.type];
        if (!kind) break;
        kinds.set(id, kind);
        yield { type: `${kind}-start`, id };
        break;
      }
      case "content_block_delta": {
        const kind = kinds.get(id);
        const delta = said.delta.text ?? said.delta.thinking;
        if (kind && delta) yield { type: `${kind}-delta`, id, delta };
        break;
      }
      case "content_block_stop":
        if (kinds.has(id)) yield { type: `${kinds.get(id)}-end`, id };
        kinds.delete(id);
        break;
      case "message_delta":
        finishReason = REASONS[said.delta.stop_reason] ?? "other";
        break;
      case "message_stop":
        yield { type: "finish-step" };
        yield { type: "finish", finishReason };
        return;
      case "error": {
        const { message, details } = said.error;
        yield details?.error_code === "cancelled" ? { type: "abort" } : { type: "error", errorText: message };
        return;
      }
    }
  }
}

// What nobody can tell any more (the events have expired) is an error of the stream like any other.
async function* told(events) {
  try {
    yield* events;
  } catch (error) {
    yield { data: JSON.stringify({ type: "error", error: { message: error.message } }) };
  }
}
