"""One sandbox for all tests of this directory; every test calls it with a key, and so with a cache, of its own."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import anthropic
import openai
import pytest

from relay.sandbox.main import serving


@pytest.fixture(scope="session")
async def url() -> AsyncIterator[str]:
    async with serving() as url:
        yield url


@pytest.fixture(scope="session")
def port(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


@pytest.fixture
def key() -> str:
    return uuid.uuid4().hex


@pytest.fixture(scope="session")
async def _claude(url: str) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
async def _gpt(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def claude(_claude: anthropic.AsyncAnthropic, key: str) -> anthropic.AsyncAnthropic:
    return _claude.with_options(api_key=key)


@pytest.fixture
def gpt(_gpt: openai.AsyncOpenAI, key: str) -> openai.AsyncOpenAI:
    return _gpt.with_options(api_key=key)
