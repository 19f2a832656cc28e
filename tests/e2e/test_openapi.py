"""What the OpenAPI document promises, by a machine that tries to break it: schemathesis, from the document alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.processes import clean_environment, python
from tests.support.relay import Relay

# No answer of ours is a 5xx, and each has a status, a content type and a shape that the document names.
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
# A stream ends when its job does, and a failed job's result is its provider's own 5xx.
NOT_OURS_TO_END = ("--exclude-path-regex", "/(stream|result)$")


async def test_every_answer_is_documented_and_none_is_a_failure_of_ours(relay: Relay, tmp_path: Path) -> None:
    command = (
        *python("-m", "schemathesis.cli", "run", f"{relay.url}/openapi.json"),
        *("--header", f"x-api-key: {relay.key}", "--checks", CHECKS, *NOT_OURS_TO_END),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", "8", "--suppress-health-check", "all"),
        *("--no-color", "--generation-deterministic", "--warnings", "off"),
    )
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=tmp_path,
        env=clean_environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
