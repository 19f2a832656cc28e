"""Every recorded shape of answer gives its expected account, however its bytes are cut.

``fixtures/streams`` and ``fixtures/responses`` hold bodies and, beside each, what a reader must make of it.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from relay.core.anthropic import AnthropicMeter, iterations
from relay.core.meter import Meter
from relay.core.openai import OpenAIMeter
from relay.core.sse import Decoder
from relay.core.usage import Usage

FIXTURES = Path(__file__).parent / "fixtures"
METERS = {"anthropic": AnthropicMeter, "openai": OpenAIMeter}
CHUNK_SIZES = [1, 2, 3, 7, 64, 1024, 10**9]

# Their numbers contradict each other on purpose.
SUSPECT = {"cached-exceeds-prompt"}
# Nothing in them that a client could show or act upon: these calls may still be made again.
INVISIBLE = {"error-first-event", "empty-content", "refusal-before-output", "responses-error-event"}


class Transcript(NamedTuple):
    name: str
    dialect: str
    body: bytes
    expected: dict[str, Any]

    def meter(self, **settings: Any) -> Meter:
        marker_ttls = self.expected.get("request_context", {}).get("marker_ttls", ())
        return METERS[self.dialect](marker_ttls, **settings)


def transcripts(kind: str, suffix: str) -> list[Transcript]:
    found = []
    for path in sorted((FIXTURES / kind).glob("*/*.expected.json")):
        body = path.with_name(path.name.replace(".expected.json", suffix)).read_bytes()
        found.append(Transcript(path.name.split(".")[0], path.parent.name, body, json.loads(path.read_text())))
    return found


STREAMS = transcripts("streams", ".sse")
RESPONSES = transcripts("responses", ".json")


def play(transcript: Transcript, chunk_size: int = 10**9, **settings: Any) -> Meter:
    """Feed a stream to a decoder and a meter as a worker does."""
    meter, decoder = transcript.meter(**settings), Decoder()
    for at in range(0, len(transcript.body), chunk_size):
        for event in decoder.feed(transcript.body[at : at + chunk_size]):
            meter.see(event)
    for event in decoder.flush():
        meter.see(event)
    assert decoder.tail == b""
    return meter


def read(transcript: Transcript) -> Meter:
    meter = transcript.meter()
    meter.see_body(transcript.body)
    return meter


def counts(usage: Usage | None) -> dict[str, Any] | None:
    return usage.as_dict() if usage else None


def agrees(meter: Meter, expected: dict[str, Any]) -> bool:
    """Compare everything the expectation speaks of; its text and tool calls are not a meter's business."""
    assert meter.outcome == expected["outcome"]
    assert meter.message_id == expected["message_id"]
    assert meter.model == expected["model"]
    if reason := expected.keys() & {"stop_reason", "finish_reason"}:
        assert meter.stop_reason == expected[reason.pop()]
    assert meter.refusal_category == expected.get("stop_details", {}).get("category")
    assert counts(meter.usage) == expected["usage"]
    error = expected.get("error")
    assert meter.error == (error and {"type": error["type"], "message": error["message"], "code": error.get("code")})
    return True


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
@pytest.mark.parametrize("transcript", STREAMS, ids=lambda stream: f"{stream.dialect}-{stream.name}")
def test_a_stream_gives_its_account_for_every_chunk_size(transcript: Transcript, chunk_size: int) -> None:
    assert agrees(play(transcript, chunk_size), transcript.expected)


@pytest.mark.parametrize("transcript", RESPONSES, ids=lambda response: f"{response.dialect}-{response.name}")
def test_a_whole_body_gives_its_account(transcript: Transcript) -> None:
    assert agrees(read(transcript), transcript.expected)


@pytest.mark.parametrize("transcript", STREAMS, ids=lambda stream: f"{stream.dialect}-{stream.name}")
def test_a_stream_handed_on_gives_the_same_account_again(transcript: Transcript) -> None:
    decoder = Decoder()
    handed_on = b"".join(event.raw for event in [*decoder.feed(transcript.body), *decoder.flush()])

    assert agrees(play(transcript._replace(body=handed_on)), transcript.expected)


@pytest.mark.parametrize("transcript", STREAMS, ids=lambda stream: f"{stream.dialect}-{stream.name}")
def test_a_stream_is_visible_once_it_has_content_and_ended_once_its_last_word_came(transcript: Transcript) -> None:
    meter = play(transcript)

    assert meter.visible == (transcript.name not in INVISIBLE)
    # The finish_reason alone does not end a stream: the usage may still come.
    assert meter.ended == (meter.outcome != "truncated" and transcript.name != "finish-but-no-done")


@pytest.mark.parametrize("transcript", [*STREAMS, *RESPONSES], ids=lambda transcript: transcript.name)
def test_only_numbers_that_contradict_each_other_are_suspect(transcript: Transcript) -> None:
    meter = play(transcript) if transcript in STREAMS else read(transcript)

    assert bool(meter.usage and meter.usage.suspect) == (transcript.name in SUSPECT)


def test_the_upstream_says_whether_input_includes_the_cached_tokens() -> None:
    (transcript,) = [stream for stream in STREAMS if "usage_if_inclusive" in stream.expected]

    meter = play(transcript, input_tokens_semantics="inclusive")

    assert counts(meter.usage) == transcript.expected["usage_if_inclusive"]


def test_a_call_that_fell_back_to_another_model_is_billed_by_its_passes() -> None:
    (transcript,) = [stream for stream in STREAMS if "iterations" in stream.expected]

    passes = iterations(play(transcript).usage or Usage())

    got = [{"type": kind, "model": model, "usage": usage.as_dict()} for kind, model, usage in passes]
    assert got == transcript.expected["iterations"]


def test_a_call_that_compacted_its_context_is_billed_by_its_passes() -> None:
    (transcript,) = [response for response in RESPONSES if "billable" in response.expected]

    passes = iterations(read(transcript).usage or Usage())

    for member, total in transcript.expected["billable"].items():
        assert sum(getattr(each.usage, member) for each in passes) == total


def test_what_multiplies_the_price_is_kept_beside_the_counts() -> None:
    (transcript,) = [response for response in RESPONSES if "pricing_hints" in response.expected]

    usage = read(transcript).usage or Usage()

    assert {"speed": usage.speed, "inference_geo": usage.inference_geo} == transcript.expected["pricing_hints"]
