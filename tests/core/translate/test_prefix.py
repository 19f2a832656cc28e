"""What every cache hit hangs on: the same bytes again, in any process, for all of the prompt that has not changed."""

import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.document import Outline
from relay.core.translate.request_to_anthropic import AnthropicOptions, to_anthropic
from relay.core.translate.request_to_openai import OpenAIOptions, to_openai
from relay.core.translate.spelling import decode, encode
from tests.core.translate.strategies import Json, openai_conversations, openai_requests
from tests.support.fixtures import ROOT, read_json, requests

KEEP = OpenAIOptions(cache_control="keep", reasoning="extension")


def sent_to_anthropic(request: Json) -> bytes:
    return encode(to_anthropic(decode(json.dumps(request).encode()), AnthropicOptions()).request)


def sent_to_openai(request: Json) -> bytes:
    return encode(to_openai(decode(json.dumps(request).encode()), KEEP).request)


def section(body: bytes, name: str) -> bytes:
    start, end = Outline(body).children("").get(name, (0, 0))
    return body[start:end]


def closing(body: bytes) -> int:
    """How many bytes at its end say only that nothing more comes: ``]}]}``, or a little less."""
    return len(body) - len(body.rstrip(b"]}"))


def mark(message: Json) -> Json:
    """The message with a marker on its last part, as a client marks the newest message of each request."""
    parts = message["content"]
    parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
    return message | {"content": [*parts[:-1], parts[-1] | {"cache_control": {"type": "ephemeral", "ttl": "1h"}}]}


@settings(max_examples=50)
@given(openai_requests(), openai_conversations(), st.integers(0, 20), st.integers(1, 20))
def test_a_conversation_that_grew_begins_with_the_bytes_it_had(
    frame: Json, turns: list[list[Json]], cut: int, more: int
) -> None:
    """Wherever it is cut, in the midst of a loop of tools too."""
    said = [message for turn in turns for message in turn]
    first = next(i for i, message in enumerate(said) if message["role"] == "user") + 1
    shorter = frame | {"messages": said[: first + cut]}
    longer = frame | {"messages": said[: first + cut + more]}
    before, after = sent_to_anthropic(shorter), sent_to_anthropic(longer)
    assert section(before, "tools") == section(after, "tools")
    assert section(before, "system") == section(after, "system")
    assert after.startswith(before[: len(before) - closing(before)])

    there, grown = to_anthropic(shorter, AnthropicOptions()).request, to_anthropic(longer, AnthropicOptions()).request
    if grown["messages"][: len(there["messages"])] == there["messages"]:  # a message that grew is another message
        before, after = sent_to_openai(there), sent_to_openai(grown)
        assert section(before, "tools") == section(after, "tools")
        assert after.startswith(before.removesuffix(b"]}"))


@settings(max_examples=50)
@given(openai_conversations(turns_max=3))
def test_a_marker_that_moves_on_leaves_the_text_behind_it_as_it_was(turns: list[list[Json]]) -> None:
    def sent(count: int) -> bytes:
        said = [message for turn in turns[:count] for message in turn]
        return sent_to_anthropic({"model": "m", "messages": [*said[:-1], mark(said[-1])]})

    bodies = [
        re.sub(rb',"cache_control":\{"type":"ephemeral","ttl":"1h"\}', b"", sent(n + 1)) for n in range(len(turns))
    ]
    for before, after in pairwise(bodies):
        assert plain(section(after, "messages")).startswith(plain(section(before, "messages")).removesuffix(b"]"))


def plain(messages: bytes) -> bytes:
    """A tool_result that says one text, as a string: the client itself put it the other way to mark it."""
    return re.sub(rb'"content":\[\{"type":"text","text":("(?:[^"\\]|\\.)*")\}\](?=\}[,\]])', rb'"content":\1', messages)


@settings(max_examples=50)
@given(openai_requests(), st.text(min_size=1))
def test_what_comes_last_does_not_touch_what_comes_first(request: Json, text: str) -> None:
    """Half a surrogate pair or a huge number at the end takes another way out, which must spell the rest alike."""
    request = request | {"messages": [*request["messages"], {"role": "user", "content": text}]}
    before = sent_to_anthropic(request)
    odd = json.dumps(request)[:-1].encode() + b',"thinking":{"odd":["\\ud800",1e999]}}'
    after = encode(to_anthropic(decode(odd), AnthropicOptions()).request)
    for name in ("tools", "system", "messages"):
        assert section(before, name) == section(after, name)


def test_numbers_reach_the_provider_digit_by_digit() -> None:
    schema = b'{"type":"object","properties":{"a":{"minimum":1.10,"maximum":1e3,"multipleOf":%b}}}' % (b"7" * 30)
    body = (
        b'{"model":"m","tools":[{"type":"function","function":{"name":"f","parameters":%b}}],"messages":['
        b'{"role":"user","content":"q"},{"role":"assistant","tool_calls":[{"id":"c","function":{"name":"f",'
        b'"arguments":"{\\"x\\": 1.50, \\"big\\": 123456789012345678901234567890, \\"a\\":-2E-7}"}}]}]}' % schema
    )
    there = encode(to_anthropic(decode(body), AnthropicOptions()).request)
    assert b'"input_schema":' + schema in there
    assert b'"input":{"x":1.50,"big":123456789012345678901234567890,"a":-2E-7}' in there
    back = encode(to_openai(decode(there), OpenAIOptions()).request)
    assert b'"parameters":' + schema in back
    assert rb'"arguments":"{\"x\":1.50,\"big\":123456789012345678901234567890,\"a\":-2E-7}"' in back


_TRANSLATE_ALL = """
import sys
from relay.core.translate.request_to_anthropic import AnthropicOptions, to_anthropic
from relay.core.translate.request_to_openai import OpenAIOptions, to_openai
from relay.core.translate.spelling import decode, encode

for line in sys.stdin.buffer:
    translation = to_anthropic(decode(line), AnthropicOptions())
    back = to_openai(translation.request, OpenAIOptions(cache_control="keep"))
    print(encode([translation.request, back.request, *translation.dropped, *back.dropped]).decode())
"""


def all_translated(hash_seed: str, lines: bytes) -> bytes:
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", _TRANSLATE_ALL]
    return subprocess.run(command, input=lines, env=environment, capture_output=True, check=True).stdout


def test_every_process_writes_the_same_bytes() -> None:
    fixtures: list[Any] = [read_json(path)["openai"] for path in sorted((ROOT / "translate/requests").glob("*.json"))]
    fixtures = [each for each in fixtures if "web_search" not in json.dumps(each)] + list(requests("openai").values())
    lines = b"".join(json.dumps(request).encode() + b"\n" for request in fixtures)
    first, *others = (all_translated(seed, lines) for seed in ("0", "1", "12345"))
    assert first.count(b"\n") == len(fixtures)
    assert others == [first, first]
