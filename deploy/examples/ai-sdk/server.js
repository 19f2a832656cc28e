// Serves the page and its endpoints with nothing but Node.js:  RELAY_API_KEY=… npm start

import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { answer, resume, stop } from "./chat.js";
import { Relay, RelayError } from "./relay.js";

const { RELAY_URL = "http://127.0.0.1:8080", RELAY_API_KEY, RELAY_MODEL = "claude-sonnet-4-6", PORT = "3000" } = process.env;
const relay = new Relay(RELAY_URL, RELAY_API_KEY);

const FILES = { "/": ["index.html", "text/html"], "/page.js": ["dist/page.js", "text/javascript"] };

async function handle(request) {
  const { pathname, searchParams } = new URL(request.url);
  const [, chat, stream] = pathname.match(/^\/api\/chat(?:\/([^/]+)(\/stream)?)?$/) ?? [];
  const message = searchParams.get("message");
  if (pathname in FILES) {
    const [name, type] = FILES[pathname];
    return new Response(await readFile(new URL(name, import.meta.url)), { headers: { "content-type": type } });
  }
  if (pathname === "/api/chat" && request.method === "POST") return answer(relay, request, { model: RELAY_MODEL });
  if (stream && request.method === "GET") return resume(relay, request, { chat, message });
  if (chat && !stream && request.method === "DELETE") return stop(relay, request, { chat, message });
  return new Response("not found", { status: 404 });
}

const server = createServer(async (incoming, outgoing) => {
  const hasBody = incoming.method === "POST";
  const gone = new AbortController();
  outgoing.on("close", () => gone.abort());
  const request = new Request(`http://${incoming.headers.host}${incoming.url}`, {
    method: incoming.method,
    headers: incoming.headers,
    signal: gone.signal,
    ...(hasBody && { body: Readable.toWeb(incoming), duplex: "half" }),
  });
  const response = await handle(request).catch((error) => {
    if (error instanceof RelayError) return new Response(error.message, { status: error.status });
    console.error(error);
    return new Response("the relay cannot be reached", { status: 502 });
  });
  outgoing.writeHead(response.status, Object.fromEntries(response.headers));
  if (!response.body) return outgoing.end();
  await pipeline(Readable.fromWeb(response.body), outgoing).catch(() => {}); // the browser has left
});

server.listen(Number(PORT), "127.0.0.1", () => {
  console.log(`ready example http://127.0.0.1:${server.address().port}`);
});
process.on("SIGTERM", () => process.exit(0));
