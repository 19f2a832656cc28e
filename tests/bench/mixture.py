"""The calls of the reconciliation: both surfaces, every pair of dialects, every way to ask and to go wrong.

Pure, and the same for the same seed. What the provider is to do stands in the prompt, for the sandbox to read.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

# How the client behaves: reads to the end, hangs up on the way, leaves a job behind, or leaves one and cancels it.
Manner = Literal["reads", "leaves", "job", "cancelled job"]
MANNERS: tuple[Manner, ...] = get_args(Manner)

MESSAGES, CHAT, COUNT = "/v1/messages", "/v1/chat/completions", "/v1/messages/count_tokens"

# The last has no price, and must be counted as such.
CLAUDE = ("claude-sonnet-4-6", "claude-opus-5-5", "claude-haiku-4-5", "claude-haiku-5-5", "claude-unheard-of-9")
GPT = ("gpt-4o", "gpt-5.6-luna", "gpt-6.1-terra", "explicit/gpt-5.6-luna")

# Members of the prompt's order, each with its share. What passes after one call is met by a retry.
_GOOD = 70
_FAULTS = {
    "fault=429,times=1,retry_after=0": 4,
    "fault=529,times=1,retry_after=0": 3,
    "fault=529": 1,
    "fault=json_200,times=1": 3,  # overloaded, behind a 200
    "fault=error_first,times=1": 2,
    "fault=empty_200,times=1": 1,
    "fault=500": 1,
    "fault=400": 1,
    "fault=error": 4,
    "fault=truncate": 3,
    "fault=truncate,after=1000": 1,  # behind the last word, before the count
    "fault=cut": 3,
    "fault=cut,after=0,times=1": 1,
    "fault=bad_json": 1,
    "fault=garbage": 1,
    "fault=huge": 0.3,
    "fault=stall": 0.5,
}

# Tokens, about: below the least that is cached, at it, and far above.
_LENGTHS = (300, 600, 1_100, 2_100, 4_500, 12_000)
_DOCUMENTS_EACH = 4
_SENTENCE = "The relay keeps the order of every event, and the ledger keeps the order of every bill. "


@dataclass(frozen=True, slots=True)
class Request:
    path: str
    body: dict[str, Any]
    manner: Manner
    patience: float  # how far a client gets that does not read to the end, from 0 to 1

    @property
    def kind(self) -> str:
        """For a table: who speaks what to whom, and how."""
        if self.path == COUNT:
            return "count_tokens"
        translated = self.path == MESSAGES and "gpt" in self.body["model"]
        translated |= self.path == CHAT and "claude" in self.body["model"]
        surface = "messages" if self.path == MESSAGES else "chat"
        return f"{surface}{', translated' if translated else ''}"

    @property
    def streams(self) -> bool:
        return bool(self.body.get("stream"))


def mixture(calls: int, seed: int) -> Iterator[Request]:
    dice = random.Random(seed)
    for number in range(calls):
        [path] = dice.choices([MESSAGES, CHAT, COUNT], [50, 45, 5])
        if path == COUNT:
            asked = _messages(dice, number, CLAUDE)
            yield Request(path, {name: asked[name] for name in ("model", "system", "messages")}, "reads", 1)
            continue
        own, other = (CLAUDE, GPT) if path == MESSAGES else (GPT, CLAUDE)
        models = dice.choices([own, other], [65, 35])[0]
        body = _messages(dice, number, models) if path == MESSAGES else _chat(dice, number, models)
        yield Request(path, body, dice.choices(MANNERS, [70, 8, 16, 6])[0], dice.random())


def _messages(dice: random.Random, number: int, models: tuple[str, ...]) -> dict[str, Any]:
    question: dict[str, Any] = {"type": "text", "text": _question(dice, number)}
    system = _system(dice)
    if len(system) < 3 and dice.random() < 0.2:  # what is cached for longer stands before
        question["cache_control"] = {"type": "ephemeral"}
    messages = [{"role": "user", "content": [question]}]
    body = {"model": dice.choice(models), "max_tokens": 500, "system": system, "messages": messages}
    return body | ({"stream": True} if dice.random() < 0.6 else {})


def _chat(dice: random.Random, number: int, models: tuple[str, ...]) -> dict[str, Any]:
    messages = [{"role": "system", "content": _system(dice)}, {"role": "user", "content": _question(dice, number)}]
    body: dict[str, Any] = {"model": dice.choice(models), "messages": messages}
    if dice.random() < 0.6:
        body["stream"] = True
        if dice.random() < 0.5:
            body["stream_options"] = {"include_usage": True}
    if models is GPT and dice.random() < 0.1:
        body["n"] = 2
    return body


def _system(dice: random.Random) -> list[dict[str, Any]]:
    """One of a few documents, so that prefixes are read as well as written: for 5 minutes, an hour, both, or not."""
    length, which = dice.choice(_LENGTHS), dice.randrange(_DOCUMENTS_EACH)
    text = f"Document {which} of {length}. " + _SENTENCE * (4 * length // len(_SENTENCE))
    short: dict[str, Any] = {"type": "text", "text": text, "cache_control": {"type": "ephemeral", "ttl": "5m"}}
    hour = short | {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    plain = {"type": "text", "text": text}
    return dice.choice([[short], [hour], [hour, short], [plain]])


def _question(dice: random.Random, number: int) -> str:
    fault = dice.choices(["", *_FAULTS], [_GOOD, *_FAULTS.values()])[0]
    order = [f"events={dice.randint(1, 60)}", f"gap_ms={dice.choice([0, 5, 20, 60])}"]
    order += [f"first_ms={dice.randint(20, 600)}"] if dice.random() < 0.3 else []
    return f"SANDBOX({','.join([*order, *filter(None, [fault])])}) Question {number}?"
