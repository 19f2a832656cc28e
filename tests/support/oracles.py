"""What must hold whatever was broken: the oracles O1–O6 of the fault tests, as small functions that assert.

They know only what is outside: the bytes a client read, the provider's ledger, and Redis.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import orjson
from redis.asyncio import Redis

from relay.broker.keys import Keys
from relay.core import frame
from tests.support.processes import Process
from tests.support.sse import SseEvent

KEYS = Keys()

_WORD = re.compile(r"(\S+)\.(\d+) ")
_NOISE = re.compile(
    r"Traceback \(most recent call last\)|exception was never retrieved|was never awaited|ResourceWarning"
    r"|Unclosed |Unhandled exception|unhandled exception|object has no attribute"
)


def text_of(events: Iterable[SseEvent]) -> str:
    """What a client would show, on either surface."""
    words = []
    for event in events:
        if event.data == "[DONE]":
            continue
        payload = event.json
        if payload.get("type") == "content_block_delta":
            words.append(payload["delta"].get("text", ""))
        words += [choice["delta"].get("content") or "" for choice in payload.get("choices", [])]
    return "".join(words)


def check_order(events: Iterable[SseEvent]) -> int:
    """O1: the text is ``<call>.1 <call>.2 … <call>.n`` of one call, without hole or repeat.  Returns n."""
    text = text_of(events)
    words = _WORD.findall(text)
    assert "".join(f"{call}.{i} " for call, i in words) == text, f"not the provider's words: {text!r}"
    assert len({call for call, _ in words}) <= 1, f"text of several calls: {text!r}"
    assert [int(i) for _, i in words] == list(range(1, len(words) + 1)), f"a hole or a repeat: {text!r}"
    return len(words)


def end_of(events: Sequence[SseEvent]) -> str:
    """O2: the one explicit end of a stream: ``done``, or the code of its error (the provider's type if it has none)."""
    ends = [end for event in events if (end := _end(event))]
    assert len(ends) == 1, f"{len(ends)} ends: {ends} in {events[-3:]}"
    assert _end(events[-1]), f"something follows the end: {events[-3:]}"
    return ends[0]


def _end(event: SseEvent) -> str:
    if event.data == "[DONE]":
        return "done"
    payload = event.json
    if payload.get("type") == "message_stop":
        return "done"
    if error := payload.get("error"):
        return str((error.get("details") or {}).get("error_code") or error.get("code") or error.get("type"))
    return ""


def check_calls(ledger: Iterable[dict[str, Any]], job_id: str, expected: int) -> None:
    """O3: how often the provider was called for a job."""
    calls = [entry["call"] for entry in ledger if entry["kind"] == "call" and entry["call"].startswith(job_id)]
    assert len(calls) == expected, f"{len(calls)} calls, not {expected}: {calls}"
    assert len(set(calls)) == len(calls), f"two calls under one name: {calls}"


async def usage_of(redis: Redis, job_id: str) -> list[dict[str, str]]:
    """The effective usage records of a job: the highest version of each call."""
    records: dict[str, dict[str, str]] = {}
    entries: Any = await redis.xrange(KEYS.usage)
    for _, record in entries:
        if record["job"] == job_id and int(record["v"]) >= int(records.get(record["call"], {"v": "0"})["v"]):
            records[record["call"]] = record
    return list(records.values())


async def check_usage(redis: Redis, ledger: Iterable[dict[str, Any]], job_id: str, kinds: Sequence[str]) -> None:
    """O4: one effective record per call, of these kinds in the order of the calls; a final one says what was sent."""
    records = await usage_of(redis, job_id)
    assert [record["kind"] for record in records] == list(kinds), records
    entries = [entry for entry in ledger if entry["call"].startswith(job_id)]
    called = {entry["call"] for entry in entries if entry["kind"] == "call"}
    recorded = {record["call"] for record in records}
    # A record of kind unknown without a call is allowed: the worker died between the mark and the call.
    assert called <= recorded, f"calls without a record: {called - recorded}"
    assert all(record["kind"] == "unknown" for record in records if record["call"] not in called), records
    sent = {entry["call"]: entry["sent"] for entry in entries if entry["kind"] == "end" and entry["how"] == "complete"}
    for record in records:
        if record["kind"] == "final" and record["call"] in sent:
            assert record["output_tokens"] == str(sent[record["call"]]), record


async def check_log(redis: Redis, job_id: str, events: Sequence[SseEvent]) -> None:
    """O5: the log holds what was shown, and one end."""
    entries: Any = await redis.xrange(KEYS.log(job_id))
    frames = [frame.decode(fields["f"].encode()) for _, fields in entries]
    last = frames[-1].generation
    logged = b"".join(each.data for each in frames if each.kind == frame.EVENTS and each.generation == last)
    shown = [event for event in events if (event.json.get("error") or {}).get("details") is None]
    assert logged == b"".join(_rendered(event) for event in shown), f"log and client differ for {job_id}"
    assert [each.kind for each in frames].count(frame.END) == 1, frames
    assert frames[-1].kind == frame.END, frames[-1]


def _rendered(event: SseEvent) -> bytes:
    name = f"event: {event.name}\n" if event.name else ""
    return f"{name}data: {event.data}\n\n".encode()


def check_quiet(process: Process) -> None:
    """O6: nothing unexpected was printed, and a process that was asked to stop said 0."""
    noise = [line for line in process.output.splitlines() if _NOISE.search(line)]
    assert not noise, f"{process.name} was not quiet: {noise[:3]}\n{process.output[-6000:]}"
    if process.stop_was_asked and not process.was_killed:
        assert process.exit_code == 0, f"{process.name} ended with {process.exit_code}:\n{process.output[-4000:]}"
    if not process.stop_was_asked and not process.was_killed:
        assert process.is_running, f"{process.name} ended by itself with {process.exit_code}:\n{process.output[-4000:]}"


def error_code(body: bytes) -> str:
    """The relay's own code in an error body of the Anthropic surface, empty for a provider's error."""
    details = orjson.loads(body)["error"].get("details") or {}
    return str(details.get("error_code", ""))
