"""Why the cache did not serve a call: each reason provoked, by itself and in the databases; and the sums add up."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete, func, select

from relay.broker.usage_reader import Entry
from relay.core.pricing import PriceTable
from relay.ledger.prefixes import Memory
from relay.ledger.prompt import Prompt
from relay.ledger.queries import Filter, summary
from relay.ledger.reasons import REASONS, decide
from relay.ledger.record import read
from relay.ledger.store import Store
from relay.ledger.tables import DIMENSIONS, calls, daily, fingerprints, prefixes, rollups
from tests.ledger.prompts import LONG, Facts, call, request, text, turns
from tests.ledger.records import STARTED_MS, check_sums, entry, record, stored_calls


class Story(NamedTuple):
    """Calls, oldest first; why the cache did not serve the last of them."""

    told: str
    calls: list[Facts]
    reason: str
    at: str | None = None


TOOLS = [{"name": name, "description": LONG, "input_schema": {"type": "object"}} for name in ("find", "read", "write")]
OTHER_TOOLS = [*TOOLS[:1], TOOLS[1] | {"description": f"{LONG}."}, *TOOLS[2:]]
BETA = {"anthropic-beta": "context-1m"}
TALK = [f"{number}: {LONG}" for number in range(60)]
PLAIN = {"system": [text(LONG)]}  # nothing marked in it


def talk(length: int, **changed: str) -> dict[str, object]:
    """A conversation of so many turns without another breakpoint than its last."""
    said = TALK[:length]
    for name, words in changed.items():
        said[int(name.removeprefix("turn"))] = words
    return request(messages=turns(*said)) | PLAIN


STORIES = [
    Story("the first of its kind", [call(request())], "first_time"),
    Story("a hit", [call(request()), call(request(), "hit", 5)], ""),
    Story("no breakpoint", [call(request() | PLAIN, "none")], ""),
    Story("no tokens known", [call(request(), "unknown")], ""),
    Story("a call before it that failed", [call(request(), "unknown"), call(request(), after_s=5)], "first_time"),
    Story("a conversation that grew", [call(talk(1)), call(talk(3), "partial", 20)], ""),
    Story(
        "another conversation",
        [call(request(messages=turns("a"))), call(request(messages=turns("b")), "partial", 5)],
        "",
    ),
    Story(
        "the time in the system prompt",
        [call(request(f"It is 10:00. {LONG}")), call(request(f"It is 10:01. {LONG}"), after_s=60)],
        "prefix_changed",
        "system.0",
    ),
    Story(
        "the time in the system prompt, an hour later",
        [call(request(f"It is 10:00. {LONG}")), call(request(f"It is 11:00. {LONG}"), after_s=3600)],
        "first_time",
    ),
    Story(
        "another application's prompt of that length",
        [call(request(f"It is 10:00. {LONG}"), app="x"), call(request(f"It is 10:01. {LONG}"), app="y")],
        "first_time",
    ),
    Story("a prompt of another length", [call(request(LONG * 2)), call(request(f"It is 10:01. {LONG}"))], "first_time"),
    Story(
        "a tool that changed",
        [call(request(tools=TOOLS)), call(request(tools=OTHER_TOOLS), after_s=5)],
        "prefix_changed",
        "tools.1",
    ),
    Story(
        "a tool less",
        [call(request(tools=TOOLS)), call(request(tools=TOOLS[:2]), after_s=5)],
        "prefix_changed",
        "tools.2",
    ),
    Story(
        "a setting that changed",
        [call(talk(1)), call(talk(1) | {"tool_choice": {"type": "any"}}, after_s=5)],
        "prefix_changed",
        "settings",
    ),
    Story(
        "a turn that was edited",
        [call(talk(5)), call(talk(7, turn2="2: no"), after_s=5)],
        "prefix_changed",
        "messages.2.content.0",
    ),
    Story(
        "a turn that was edited, behind a system prompt that was read",
        [
            call(request(messages=turns(*TALK[:5]))),
            call(request(messages=turns(TALK[0], TALK[1], "no", *TALK[3:8])), "partial", 5),
        ],
        "prefix_changed",
        "messages.2.content.0",
    ),
    Story("its time over", [call(request()), call(request(), after_s=301)], "ttl_expired", "system.0"),
    Story(
        "its time renewed by a read",
        [call(request()), call(request(), "hit", 250), call(request(), after_s=500)],
        "evicted",
        "system.0",
    ),
    Story(
        "read although its time was over",
        [call(request()), call(request(messages=turns(*TALK[:1])), "partial", 400)],
        "",
    ),
    Story("an hour asked for", [call(request(ttl="1h")), call(request(ttl="1h"), after_s=301)], "evicted", "system.0"),
    Story(
        "the conversation's time over, the system prompt's not",
        [
            call(request(ttl="1h", messages=turns(*TALK[:3]))),
            call(request(ttl="1h", messages=turns(*TALK[:5])), "partial", 301),
        ],
        "ttl_expired",
        "messages.2.content.0",
    ),
    Story(
        "dropped, written, and its time over",
        [call(request(), after_s=s) for s in (0, 200, 501)],
        "ttl_expired",
        "system.0",
    ),
    Story("too short, as the worker said", [call(request(), "none", cache_note="short")], "below_minimum", "system.0"),
    Story(
        "too short up to its breakpoint",
        [call(request("Be kind.", messages=[{"role": "user", "content": LONG}]), "none")],
        "below_minimum",
        "system.0",
    ),
    Story(
        "a short one before a long one that changed",
        [
            call(request(tools=[{"name": "f", "cache_control": {"type": "ephemeral"}}], system=f"{n}{LONG}"))
            for n in "12"
        ],
        "prefix_changed",
        "system.0",
    ),
    Story(
        "another model",
        [call(request(), target="a"), call(request(), after_s=5, target="b")],
        "other_model",
        "system.0",
    ),
    Story(
        "another model, long ago", [call(request(), target="a"), call(request(), after_s=999, target="b")], "first_time"
    ),
    Story(
        "another provider", [call(request(), provider="a"), call(request(), after_s=5)], "other_provider", "system.0"
    ),
    Story("other headers", [call(request(), headers=BETA), call(request(), after_s=5)], "other_headers", "system.0"),
    Story("two at once", [call(request()), call(request(), after_s=0.2)], "not_yet_readable", "system.0"),
    Story(
        "two at once, the later one stored first",
        [call(request(), after_s=0.2), call(request())],
        "not_yet_readable",
        "system.0",
    ),
    Story("one just after the answer began", [call(request()), call(request(), after_s=0.3)], "evicted", "system.0"),
    Story(
        "two at once, after a drop",
        [call(request()), call(request(), after_s=100), call(request(), after_s=100.1)],
        "not_yet_readable",
        "system.0",
    ),
    Story(
        "two turns at once, after a pause",
        [
            call(request(ttl="1h", messages=turns(*TALK[:3]))),
            *(call(request(ttl="1h", messages=turns(*TALK[:3])), "partial", after_s) for after_s in (400, 400.1)),
        ],
        "not_yet_readable",
        "messages.2.content.0",
    ),
    Story(
        "a tool that changed, after the time of the old one",
        [call(request(tools=TOOLS)), call(request(tools=OTHER_TOOLS), after_s=301)],
        "first_time",
    ),
    Story(
        "a tool that was to change, stored late",
        [call(request(tools=OTHER_TOOLS), after_s=100), call(request(tools=TOOLS))],
        "first_time",
    ),
    Story("an older one, stored late", [call(request(), after_s=100), call(request())], "first_time"),
    Story(
        "a breakpoint out of sight",
        [call(talk(1)), call(talk(23), after_s=5)],
        "beyond_lookback",
        "messages.0.content.0",
    ),
    Story("a breakpoint just in sight", [call(talk(1)), call(talk(21), after_s=5)], "evicted", "messages.0.content.0"),
    Story(
        "a long conversation whose last end has no boundary any more",
        [call(talk(31)), call(talk(33), after_s=5)],
        "evicted",
        "messages.30.content.0",
    ),
    Story(
        "the same, its time over", [call(talk(31)), call(talk(33), after_s=301)], "ttl_expired", "messages.30.content.0"
    ),
    Story("stripped", [call(request(), "none", cache_control="stripped=system.0;ttl=5m")], "stripped"),
    Story("stripped, and read all the same", [call(request(), "hit", cache_control="stripped=system.0;ttl=5m")], ""),
    Story(
        "one of two stripped",
        [
            call(request(messages=turns(n)), after_s=after, cache_control="stripped=messages.0.content.0;ttl=5m")
            for n, after in (("a", 0), ("b", 5))
        ],
        "evicted",
        "system.0",
    ),
    Story(
        "translated into half an hour",
        [call(request(), after_s=s, cache_control="translated=system.0;ttl=5m;as=30m") for s in (0, 1700)],
        "evicted",
        "system.0",
    ),
    Story("of another tenant", [call(request(), tenant="zeta"), call(request(), after_s=5)], "first_time"),
]
stories = pytest.mark.parametrize("story", STORIES, ids=[story.told for story in STORIES])


@stories
def test_the_reason_follows_from_what_was_sent_before(story: Story) -> None:
    memory, earlier = Memory(), dict[str, str]()
    for number, facts in enumerate(story.calls):
        row = read(record(call=f"0-job{number}:7", **facts), PriceTable())
        prompt = Prompt.of(row, facts["fingerprint"])
        reason = prompt and decide(prompt, row["cache_note"], memory, earlier)
        if prompt:
            memory.note(prompt)
            earlier[prompt.call] = facts["fingerprint"]
    assert (reason or ("", None)) == (story.reason, story.at)


def test_every_reason_has_a_story() -> None:
    assert {story.reason for story in STORIES} == {*REASONS, ""}


# -- in the databases ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [True, False], ids=["one batch", "a batch for each"])
def test_both_databases_tell_the_same_stories(store: Store, engine: Engine, together: bool) -> None:
    batch = [
        entry(100 * number + place, **facts | {"tenant": f"{number} {facts.get('tenant', '')}"})
        for number, story in enumerate(STORIES)
        for place, facts in enumerate(story.calls)
    ]
    for part in [batch] if together else [[each] for each in batch]:
        store.put(part)
    found = {row["job"]: (row["cache_reason"], row["cache_reason_at"]) for row in stored_calls(engine)}
    for number, story in enumerate(STORIES):
        if not (together and "stored" in story.told):  # which would be put in order
            last = f"0-job{100 * number + len(story.calls) - 1}"
            assert (story.told, *found[last]) == (story.told, story.reason, story.at)
    check_sums(engine)


def test_a_record_that_comes_again_does_not_find_itself(store: Store, engine: Engine) -> None:
    batch = [entry(1, **call(request())), entry(2, **call(request(), after_s=500))]
    for _ in range(2):
        store.put(batch)
    assert [row["cache_reason"] for row in stored_calls(engine)] == ["first_time", "ttl_expired"]


def test_a_late_record_keeps_the_reason_of_the_first_one(store: Store, engine: Engine) -> None:
    facts = call(request(), after_s=500)
    store.put([entry(1, **call(request())), entry(2, **facts)])
    store.put([entry(3, **call(request(), "hit", 600)), entry(2, v=2, outcome="late", **facts)])
    late = stored_calls(engine)[1]
    assert (late["outcome"], late["cache_reason"], late["cache_reason_at"]) == ("late", "ttl_expired", "system.0")
    check_sums(engine)


def test_a_late_record_that_knows_more_is_judged_anew(store: Store, engine: Engine) -> None:
    store.put([entry(1, **call(request())), entry(2, **call(request(), "unknown", 500))])
    store.put([entry(2, v=2, **call(request(), "write", 500))])
    assert [row["cache_reason"] for row in stored_calls(engine)] == ["first_time", "ttl_expired"]
    check_sums(engine)


asked = st.builds(
    lambda number, v, cache, system, after_s, facts: entry(
        number, v=v, **call(request(system, messages=turns(str(number))), cache, after_s, **facts)
    ),
    st.integers(1, 8),
    st.integers(1, 2),
    st.sampled_from(["hit", "partial", "write", "none", "unknown"]),
    st.sampled_from([LONG, f"{LONG}.", "short"]),
    st.integers(0, 4000),
    st.fixed_dictionaries({"target": st.sampled_from(["claude-opus-5-5", "claude-haiku-4-5"])}),
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(asked, max_size=8), max_size=5))
def test_the_sums_still_add_up(store: Store, engine: Engine, batches: list[list[Entry]]) -> None:
    with engine.begin() as connection:
        for table in (calls, rollups, daily, fingerprints, prefixes):
            connection.execute(delete(table))
    for batch in batches:
        store.put(batch)
    check_sums(engine)
    rows = stored_calls(engine)
    with engine.connect() as connection:
        for by in DIMENSIONS:
            wanted = Filter(since_ms=0, until_ms=STARTED_MS * 2)
            groups = {each[by]: each["calls"] for each in summary(connection, wanted, [by])}
            assert groups == Counter(row[by] for row in rows)


STRANGE = [
    *("x", "headers:0:", "headers:0:h system.0:1:a:9m", "headers:0:h " + "a.0:1:b " * 400, "headers:0:h a:-1:b"),
    *("headers:0:h a.0:99999999999999999999:b:5m", "headers:0:h a.0:5:" + "b" * 9000, "headers:0:h a.0:0:b:5m"),
    *("headers:0:h settings:5:b:5m", "headers:0:h a.0:9:b:5m a.1:5:c:5m", "headers:0:h messages.9:9:b:5m"),
]


def test_strange_fingerprints_lose_no_record(store: Store, engine: Engine) -> None:
    facts = call(request())
    for number in range(2 * len(STRANGE)):
        strange = entry(number, **facts | {"fingerprint": STRANGE[number // 2]})
        assert store.put([strange]).calls == 1, STRANGE[number // 2]
    assert {row["cache_reason"] for row in stored_calls(engine)} <= {"", "first_time", "not_yet_readable"}


def test_what_is_kept_is_hashes_and_goes_in_time(store: Store, engine: Engine) -> None:
    store.put([entry(1, **call(request()))])
    with engine.connect() as connection:
        kept = [*connection.execute(select(fingerprints)), *connection.execute(select(prefixes))]
    assert len(kept) == 3  # the fingerprint, its one breakpoint, and the newest of its kind
    assert "careful" not in str(kept)
    store.forget()
    assert count(engine) == len(kept)
    with engine.begin() as connection:
        for table in (fingerprints, prefixes):
            connection.execute(table.update().values(kept_until_ms=1))
    store.forget()
    assert count(engine) == 0


def count(engine: Engine) -> int:
    with engine.connect() as connection:
        return sum(
            connection.scalar(select(func.count()).select_from(table)) or 0 for table in (fingerprints, prefixes)
        )
