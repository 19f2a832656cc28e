"""The lines of a batch's results, as the providers' SDKs read them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types.messages import MessageBatchIndividualResponse

from relay.core.batch.lines import CANCELED, EXPIRED, Outcome, line_of
from relay.core.errors import NotFound, body_of
from tests.support.fixtures import ROOT, response

JOB = "0-0199a1b2c3d47e5f8a9b0c1d2e3f4a5b"
FIXTURE = {
    each["custom_id"]: each
    for each in map(json.loads, (ROOT / "misc" / "anthropic-batch-results.jsonl").read_text().splitlines())
}
ERROR = json.dumps(FIXTURE["b"]["result"]["error"]).encode()
MESSAGE = json.dumps(FIXTURE["a"]["result"]["message"]).encode()


def said(surface: Any, name: str, outcome: Outcome) -> Any:
    line = line_of(surface, name, JOB, outcome)
    assert line.data.endswith(b"\n")
    assert line.data.count(b"\n") == 1
    return json.loads(line.data)


@pytest.mark.parametrize(
    ("name", "outcome"),
    [("a", Outcome("succeeded", 200, MESSAGE)), ("b", Outcome("errored", 400, ERROR)), ("c", EXPIRED)],
)
def test_anthropic_lines_are_those_of_its_documentation(name: str, outcome: Outcome) -> None:
    assert said("anthropic", name, outcome) == FIXTURE[name]


def test_anthropics_sdk_reads_them() -> None:
    body = body_of(NotFound("There is no such model."), "anthropic", JOB)
    for outcome in (Outcome("succeeded", 200, MESSAGE), Outcome("errored", 404, body), CANCELED, EXPIRED):
        line = MessageBatchIndividualResponse.model_validate(said("anthropic", "a", outcome))
        assert line.result.type == outcome.kind


def test_an_answer_is_put_in_as_it_came_save_its_line_breaks() -> None:
    body = b'{\n "content": "\\n\xc3\xa9", \r\n"number": 1e1 }'
    line = line_of("openai", "a", JOB, Outcome("succeeded", 200, body)).data
    assert body.replace(b"\n", b" ").replace(b"\r", b" ") in line


def test_an_openai_line_with_an_answer() -> None:
    body = response("openai", "plain")
    line = said("openai", "x", Outcome("succeeded", 200, body, "req_1"))
    assert line == {
        "id": "batch_req_0199a1b2c3d47e5f8a9b0c1d2e3f4a5b",
        "custom_id": "x",
        "response": {"status_code": 200, "request_id": "req_1", "body": json.loads(body)},
        "error": None,
    }


@pytest.mark.parametrize(("outcome", "code"), [(CANCELED, "batch_cancelled"), (EXPIRED, "batch_expired")])
def test_an_openai_line_of_what_was_never_run(outcome: Outcome, code: str) -> None:
    line = said("openai", "x", outcome)
    assert (line["response"], line["error"]["code"]) == (None, code)


@pytest.mark.parametrize("outcome", [Outcome("errored", 400, ERROR), CANCELED, EXPIRED])
def test_openai_has_a_file_of_its_own_for_what_failed(outcome: Outcome) -> None:
    assert line_of("openai", "x", JOB, outcome).for_errors
    assert not line_of("anthropic", "x", JOB, outcome).for_errors


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b'{"cut', b"\xff"])
def test_an_answer_that_would_spoil_the_file_is_an_error(body: bytes) -> None:
    line = line_of("anthropic", "x", JOB, Outcome("succeeded", 200, body))
    assert line.kind == "errored"
    assert "no JSON object" in json.loads(line.data)["result"]["error"]["error"]["message"]
