"""One item of a batch: is it one, what is it called, and where in its bytes is the request?

The ingress asks for each item as it comes. It refuses what the batch as such cannot have (no name, a name twice, a
stream); whether the request makes sense is told for an Anthropic item by its result, as there, and for a line of an
OpenAI file when the file is checked, as there.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, NamedTuple

from relay.core import document
from relay.core.body import Endpoint, peek
from relay.core.cache_control import shown
from relay.core.document import Outline
from relay.core.errors import InvalidRequest

# Anthropic's rule. OpenAI has none; but it is stored with each job, and comes back in each line.
_ANTHROPIC_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}", re.ASCII)
OPENAI_ID_CHARS_MAX = 512

# The endpoints an OpenAI batch may have here, and what its jobs call them.
OPENAI_ENDPOINTS: dict[str, Endpoint] = {"/v1/chat/completions": "chat_completions"}


class Item(NamedTuple):
    """``body`` is the request as it stood in the batch, byte for byte."""

    custom_id: str
    body: bytes


class Fault(Exception):
    """What is wrong with a line of an OpenAI batch, in the words of its API."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


def anthropic_item(raw: bytes, number: int) -> Item:
    """An element of ``requests``.  Raises ``InvalidRequest`` naming it."""
    where = f"requests.{number}"
    try:
        request: dict[str, Any] = document.parse(raw)
        spans = _spans(raw)
    except InvalidRequest as error:
        raise InvalidRequest(f"{where}: {error.message}", param=where) from None
    custom_id = request.get("custom_id")
    if custom_id is None:
        raise _refusal(f"{where}.custom_id", "Field required")
    if not isinstance(custom_id, str) or not _ANTHROPIC_ID.fullmatch(custom_id):
        raise _refusal(f"{where}.custom_id", f"String should match pattern '^{_ANTHROPIC_ID.pattern}$'", custom_id)
    called = f" (custom_id {custom_id!r})"
    params = request.get("params")
    if not isinstance(params, dict):
        what = "Field required" if params is None else f"Input should be a valid dictionary, not {shown(params)}"
        raise _refusal(f"{where}.params", what + called)
    if params.get("stream") not in (None, False):
        raise _refusal(f"{where}.params.stream", f"Streaming is not supported in batches{called}")
    if params.get("max_tokens") == 0 and type(params["max_tokens"]) is int:
        raise _refusal(f"{where}.params.max_tokens", f"Warming the cache is not supported in batches{called}")
    start, end = spans["params"]
    return Item(custom_id, raw[start:end])


def openai_item(raw: bytes, endpoint: str) -> Item:
    """A line of an input file for this endpoint.  Raises ``Fault``."""
    try:
        line = document.parse(raw)
        spans = _spans(raw) if isinstance(line, dict) else {}
    except InvalidRequest as error:
        raise Fault("invalid_json_line", f"This line is not parseable as valid JSON. {error.message}") from None
    if not isinstance(line, dict):
        raise Fault("invalid_json_line", f"This line should be a JSON object, not {shown(line)}.")
    custom_id = line.get("custom_id")
    if custom_id is None:
        raise Fault("missing_required_parameter", "Missing required parameter: 'custom_id'.", "custom_id")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= OPENAI_ID_CHARS_MAX or not custom_id.isprintable():
        what = f"a printable string of at most {OPENAI_ID_CHARS_MAX} characters"
        raise Fault("invalid_custom_id", f"'custom_id' should be {what}, not {shown(custom_id)}.", "custom_id")
    called = f" (custom_id {custom_id!r})"
    if line.get("method") != "POST":
        raise Fault("invalid_method", f"'method' should be 'POST', not {shown(line.get('method'))}{called}.", "method")
    if line.get("url") != endpoint:
        what = f"'url' should be the batch's endpoint, {endpoint!r}, not {shown(line.get('url'))}{called}."
        raise Fault("mismatched_endpoint", what, "url")
    body = line.get("body")
    if not isinstance(body, dict):
        raise Fault("missing_required_parameter", f"'body' should be a JSON object, not {shown(body)}{called}.", "body")
    start, end = spans["body"]
    item = Item(custom_id, raw[start:end])
    try:
        seen = peek(item.body, "openai", "chat_completions")
    except InvalidRequest as error:
        where = f"body.{error.param}" if error.param else "body"
        raise Fault("invalid_request", f"{error.message}{called}", where) from None
    if seen.stream:
        raise Fault("invalid_request", f"Streaming is not supported in batches{called}.", "body.stream")
    return item


def job_id(partition: str, batch_id: str, number: int) -> str:
    """The id of the job of an item: always the same one, so that submitting it again changes nothing.

    It has the form of a UUIDv7 made when the batch was.
    """
    made, digest = batch_id[-32:][:12], hashlib.sha256(f"{batch_id} {number}".encode()).hexdigest()
    return f"{partition}-{made}7{digest[:3]}8{digest[3:18]}"


def _spans(raw: bytes) -> dict[str, tuple[int, int]]:
    """Where each member stands.  A repeated one would be read differently by two readers: ``InvalidRequest``."""
    spans: dict[str, tuple[int, int]] = {}
    for name, span in Outline(raw).members():
        if name in spans:
            raise InvalidRequest(f"{name[:80]}: The member may not be repeated.")
        spans[name] = span
    return spans


def _refusal(where: str, what: str, value: Any = None) -> InvalidRequest:
    return InvalidRequest(f"{where}: {what}" + (f", not {shown(value)}." if value is not None else "."), param=where)
