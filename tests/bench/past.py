"""A made-up past of any size, as the usage stream would have delivered it: the same for the same number of calls.

Forty keys of eight tenants, each an application with two models and its own share of calls; one of them calls rarely.
Calls come evenly over the days, as what matters here is how many there are. Those with breakpoints are turns of a few
conversations, each of which begins like the one before it.
"""

from __future__ import annotations

import random
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass

import orjson

from tests.ledger.records import NO_TOKENS, record

DAY_MS = 86_400_000
KEYS, TENANTS, USERS = 40, 8, 5_000
LONGEST_TALK = 12
RARE = 0.0005

_MODELS = (
    ("anthropic", "claude-sonnet-4-6"),
    ("anthropic", "claude-opus-5-5"),
    ("anthropic", "claude-haiku-4-5"),
    ("openai", "gpt-4o"),
    ("openai", "gpt-6.1-terra"),
    ("house", "house-70b"),
)


@dataclass(frozen=True, slots=True)
class Habit:
    """How the application behind a key calls."""

    number: int

    @property
    def app(self) -> str:
        return f"app {self.number}"

    @property
    def key_id(self) -> str:
        return f"key{self.number:05}"

    @property
    def tenant(self) -> str:
        return f"tenant{self.number % TENANTS}"

    def model(self, dice: random.Random) -> tuple[str, str]:
        return _MODELS[(self.number + (dice.random() < 0.3)) % len(_MODELS)]


HABITS = tuple(map(Habit, range(KEYS)))
RARELY = HABITS[-1]


def past(calls: int, until_ms: int, days: float, marked: float) -> Iterator[dict[str, str]]:
    """The records, oldest first; this share of them had breakpoints."""
    dice = random.Random(calls)
    span_ms = days * DAY_MS
    conversations = {habit: Conversation(dice) for habit in HABITS}
    for number in range(calls):
        habit = RARELY if dice.random() < RARE else HABITS[dice.randrange(KEYS - 1)]
        record = _call(number, int(until_ms - span_ms + span_ms * number / calls), habit, dice)
        yield record | ({"fingerprint": conversations[habit].turn()} if dice.random() < marked else {})


class Conversation:
    """Grows by a message each turn, and begins anew when it is long; a template and a system prompt stay."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._system = ["headers:0:AAAAAAAAAAA", f"tools.3:4000:{self._hash()}", f"system.0:9000:{self._hash()}:5m"]
        self._messages: list[str] = []

    def turn(self) -> str:
        """The prompt's fingerprint, with a breakpoint on the last message."""
        if len(self._messages) == LONGEST_TALK:
            self._messages = []
        size = 9000 + 500 * (len(self._messages) + 1)
        self._messages.append(f"messages.{len(self._messages)}:{size}:{self._hash()}")
        return " ".join([*self._system, *self._messages]) + ":5m"

    def _hash(self) -> str:
        return urlsafe_b64encode(self._dice.randbytes(8)).decode()[:11]


def job_of(number: int) -> str:
    return f"0-{number:032x}"


def _call(number: int, started_ms: int, habit: Habit, dice: random.Random) -> dict[str, str]:
    provider, model = habit.model(dice)
    surface = "openai" if provider == "openai" else "anthropic"
    first_ms, total_ms = dice.randrange(200, 900), dice.randrange(1_000, 12_000)
    facts = {
        **{"call": f"{job_of(number)}:{started_ms}", "job": job_of(number), "generation": started_ms},
        **{"tenant": habit.tenant, "key_id": habit.key_id, "app": habit.app, "user": f"user{dice.randrange(USERS)}"},
        **{"surface": surface, "endpoint": "chat_completions" if surface == "openai" else "messages"},
        **{"provider": provider, "model": model, "target": model, "started_ms": started_ms},
        **{"first_event_ms": first_ms, "total_ms": total_ms, "ended_ms": started_ms + total_ms},
    }
    if dice.random() < 0.02:
        return record(**facts | NO_TOKENS | {"outcome": "error", "error": "overloaded_error"})
    return record(**facts | _tokens(dice))


def _tokens(dice: random.Random) -> dict[str, int | str]:
    plain, marked, output = dice.randrange(20, 2_000), dice.randrange(1_000, 20_000), dice.randrange(10, 1_500)
    hit = dice.random() < 0.7
    read, written = (marked, 0) if hit else (0, marked)
    counted = {"input_tokens": plain, "cache_read_input_tokens": read, "cache_creation_input_tokens": written}
    split = {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0}
    first = counted | {"cache_creation": split, "output_tokens": 1, "service_tier": "standard"}
    return {
        **{"input_tokens": plain, "cache_read_tokens": read, "cache_write_5m_tokens": written},
        **{"cache_write_1h_tokens": 0, "output_tokens": output},
        "usage_first": orjson.dumps(first).decode(),
        "usage_last": orjson.dumps(counted | {"output_tokens": output}).decode(),
    }
