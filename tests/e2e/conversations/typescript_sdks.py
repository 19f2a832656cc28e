"""Applications on the official TypeScript SDKs, in Node.js processes."""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import PIPE
from pathlib import Path

from tests.e2e.conversations.applications import Report, Steps
from tests.e2e.conversations.script import Vendor
from tests.support.processes import clean_environment

_TYPESCRIPT = Path(__file__).parents[2] / "typescript"
_MAIN = _TYPESCRIPT / "conversations" / "main.mjs"


async def typescript_anthropic(base_url: str, key: str, conversations: list[Steps]) -> list[Report]:
    return await _application("anthropic", base_url, key, conversations)


async def typescript_openai(base_url: str, key: str, conversations: list[Steps]) -> list[Report]:
    return await _application("openai", base_url, key, conversations)


async def _application(vendor: Vendor, base_url: str, key: str, conversations: list[Steps]) -> list[Report]:
    assert (_TYPESCRIPT / "node_modules").is_dir(), "the SDKs are not installed: run tests/support/setup.sh"
    process = await asyncio.create_subprocess_exec(
        *("node", str(_MAIN), vendor, base_url, key), stdin=PIPE, stdout=PIPE, stderr=PIPE, env=clean_environment()
    )
    output, complaints = await process.communicate(json.dumps(conversations).encode())
    assert process.returncode == 0, complaints.decode()
    reports: list[Report] = json.loads(output)
    return reports
