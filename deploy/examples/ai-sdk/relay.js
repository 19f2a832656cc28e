// The relay's jobs API, as far as a chat needs it. Runs on the server: it has the API key.

import { EventSourceParserStream } from "eventsource-parser/stream";

const RETRY_MS = 500;

export class Relay {
  constructor(url, key) {
    this.url = url;
    this.key = key;
  }

  /** Submit a job; the same `idempotencyKey` gives the same job for a day. */
  submit(job, idempotencyKey) {
    return this.#json("POST", "/v1/jobs", job, { "idempotency-key": idempotencyKey });
  }

  /** The newest job with this metadata, if there is one. */
  async newest(metadata) {
    const pairs = Object.entries(metadata).map(([name, value]) => ["metadata", `${name}=${value}`]);
    const found = await this.#json("GET", `/v1/jobs?${new URLSearchParams([...pairs, ["limit", "1"]])}`);
    return found.data[0];
  }

  cancel(id) {
    return this.#json("POST", `/v1/jobs/${id}/cancel`);
  }

  /**
   * A job's events, each once: first those that stand for what was said so far, then the rest as it comes. A relay that
   * is restarted, or a cut connection, is a pause and nothing else.
   */
  async *events(id, signal) {
    let lastId = "";
    for (;;) {
      const response = await this.#stream(id, lastId, signal);
      if (response?.status === 204) return;
      if (response) {
        // Up to the first id it is the snapshot; if that is cut off, the next one begins anew.
        let held = [];
        try {
          for await (const event of parsed(response.body)) {
            held.push(event);
            if (!event.id) continue;
            lastId = event.id;
            yield* held;
            held = [];
          }
        } catch (error) {
          if (signal.aborted) throw error;
        }
      }
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }

  /** The answer of a relay that can be reached and is well; nothing of one that is not. Throws what no retry can help. */
  async #stream(id, lastId, signal) {
    const headers = { ...this.#auth(), ...(lastId && { "last-event-id": lastId }) };
    try {
      const response = await fetch(`${this.url}/v1/jobs/${id}/stream?snapshot=1`, { headers, signal });
      if (response.ok) return response;
      if (response.status < 500) throw new RelayError(response.status, await response.json());
    } catch (error) {
      if (error instanceof RelayError || signal.aborted) throw error;
    }
  }

  async #json(method, path, body, more = {}) {
    const headers = { ...this.#auth(), "content-type": "application/json", ...more };
    const response = await fetch(this.url + path, { method, headers, body: body && JSON.stringify(body) });
    if (!response.ok) throw new RelayError(response.status, await response.json());
    return response.json();
  }

  #auth() {
    return { authorization: `Bearer ${this.key}` };
  }
}

export class RelayError extends Error {
  constructor(status, problem) {
    super(problem.detail);
    this.status = status;
  }
}

function parsed(body) {
  return body.pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream());
}
