"""Jobs: stored and read back, by newer and older versions too."""

import re
import time

from hypothesis import given
from hypothesis import strategies as st

from relay.broker.keys import partition_of
from relay.core import job as jobs
from relay.core.job import Job, Target, made_ms, new_id
from relay.core.pieces import Prefix

texts = st.text(st.characters(codec="utf-8"), max_size=20)
places = st.integers(0, 2**40)
dialects = st.sampled_from(["anthropic", "openai"])
parts = st.tuples(st.sampled_from(["tools", "system", "messages"]), places, places)
prefixes = st.builds(
    Prefix, path=texts, ttl=st.sampled_from(["5m", "1h"]), parts=st.lists(parts, max_size=3).map(tuple)
)
job_facts = st.builds(
    Job,
    id=st.just("0-0123456789abcdef0123456789abcdef"),
    tenant=texts,
    key_id=texts,
    surface=dialects,
    endpoint=st.sampled_from(["messages", "count_tokens", "chat_completions"]),
    query=texts,
    headers=st.dictionaries(texts, texts, max_size=3),
    model=texts,
    targets=st.lists(st.builds(Target, texts, dialects, texts), min_size=1, max_size=3).map(tuple),
    stream=st.booleans(),
    created_ms=st.integers(0, 2**53),
    body_bytes=st.integers(0, 2**40),
    body_pieces=st.integers(0, 100),
    marker_ttls=st.lists(st.sampled_from(["5m", "1h"]), max_size=4).map(tuple),
    on_disconnect=st.sampled_from(["finish", "cancel"]),
    model_spans=st.lists(st.tuples(places, places), max_size=2).map(tuple),
    prefixes=st.lists(prefixes, max_size=2).map(tuple),
    stream_usage=st.sampled_from(["", "asked", "unasked", "declined"]),
    auto_cache=st.booleans(),
    app=texts,
    user=texts,
    fingerprint=texts,
    log=st.sampled_from(["", "content", "content;ttl=60"]),
    metadata=st.dictionaries(texts, texts, max_size=2),
    priority=st.sampled_from(["high", "normal", "low"]),
    run_at_ms=places,
    expires_at_ms=places,
    webhook=texts,
    replay_of=texts,
    trace=st.dictionaries(texts, texts, max_size=2),
)


def stored(job: Job) -> dict[str, str]:
    """As Redis gives it back: everything is text."""
    return {name: str(value) for name, value in job.encode().items()}


@given(job_facts)
def test_a_job_survives_its_hash(job: Job) -> None:
    assert Job.decode(stored(job)) == job


@given(job_facts)
def test_what_a_newer_version_and_the_scripts_wrote_is_left_alone(job: Job) -> None:
    assert Job.decode({**stored(job), "state": "queued", "usage:17": "final", "of_next_year": "1"}) == job


@given(job_facts)
def test_fields_an_older_version_did_not_know_have_their_defaults(job: Job) -> None:
    new = ("marker_ttls", "on_disconnect", "model_spans", "prefixes")
    read = Job.decode({name: text for name, text in stored(job).items() if name not in new})
    assert (read.marker_ttls, read.on_disconnect, read.model_spans, read.prefixes) == ((), "cancel", (), ())
    assert read.id == job.id


def test_every_state_has_a_public_word() -> None:
    running = (jobs.CLAIMED, jobs.DISPATCHED, jobs.STREAMING)
    assert {*jobs.STATUS} == {jobs.QUEUED, *running, *jobs.ENDED}
    assert {jobs.STATUS[state] for state in running} == {"in_progress"}


def test_an_id_names_its_partition_and_is_sorted_by_time() -> None:
    ids = [new_id("eu1") for _ in range(100)]
    assert all(re.fullmatch("eu1-[0-9a-f]{32}", each) for each in ids)
    assert len(set(ids)) == 100
    assert ids == sorted(ids)
    assert {partition_of(each) for each in ids} == {"eu1"}
    assert all(abs(made_ms(each) - time.time_ns() // 1_000_000) < 60_000 for each in ids)


def test_text_that_is_no_job_id_has_no_partition() -> None:
    short, long = "0-" + "a" * 31, "0-" + "a" * 33
    for text in ("", "0", "-", "a" * 32, "-" + "a" * 32, short, long, "0-" + "/" * 32, "0-" + "a" * 31 + ":"):
        assert partition_of(text) is None, text
