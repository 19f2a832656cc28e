"""The prefix cache: the documented rules one by one, then against a plain model of them.  Time is an argument."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from relay.sandbox.cache import Plan, PrefixCache, Write, by_breakpoints, by_steps
from relay.sandbox.prompt import Block, Prefix, block_prefixes, step_prefixes, tokens_in

FIVE_MINUTES, HOUR = 300, 3600


def block(text: str, tokens: int = 100, *, ttl_s: int | None = None, run: str | None = None) -> Block:
    return Block(b"user", text.encode().ljust(tokens * 4, b"."), ttl_s, run)


def ask(
    cache: PrefixCache,
    *blocks: Block,
    now: float = 0,
    minimum: int = 100,
    lookback: int | None = 20,
    begin: bool = True,
) -> Plan:
    prefixes = block_prefixes(b"", blocks)
    plan = by_breakpoints(cache, blocks, prefixes, minimum=minimum, lookback=lookback, now=now)
    if begin:
        cache.begin(plan)
    return plan


def ask_in_steps(cache: PrefixCache, *blocks: Block, now: float = 0) -> Plan:
    plan = by_steps(cache, blocks, step_prefixes(b"", blocks), ttl_s=600, now=now)
    cache.begin(plan)
    return plan


def figures(plan: Plan) -> tuple[int, int, int]:
    return plan.read_tokens, plan.written_tokens, plan.uncached_tokens


def test_the_second_identical_request_reads_what_the_first_wrote() -> None:
    cache = PrefixCache()
    prompt = (block("system", ttl_s=FIVE_MINUTES), block("question", 7))
    assert figures(ask(cache, *prompt)) == (0, 100, 7)
    assert figures(ask(cache, *prompt)) == (100, 0, 7)


def test_without_a_breakpoint_nothing_is_cached() -> None:
    cache = PrefixCache()
    assert figures(ask(cache, block("a"), block("b"))) == (0, 0, 200)
    assert figures(ask(cache, block("a"), block("b", ttl_s=FIVE_MINUTES))) == (0, 200, 0)


def test_a_longer_conversation_reads_the_shorter_one_and_writes_the_rest() -> None:
    cache = PrefixCache()
    ask(cache, block("a"), block("b", ttl_s=FIVE_MINUTES))
    plan = ask(cache, block("a"), block("b"), block("c"), block("d", ttl_s=FIVE_MINUTES), block("e", 5))
    assert figures(plan) == (200, 200, 5)


def test_two_requests_in_parallel_both_write() -> None:
    cache = PrefixCache()
    prompt = (block("a", ttl_s=FIVE_MINUTES),)
    first = ask(cache, *prompt, begin=False)
    second = ask(cache, *prompt, begin=False)
    assert figures(first) == figures(second) == (0, 100, 0)
    cache.begin(first)
    assert figures(ask(cache, *prompt)) == (100, 0, 0)


def test_a_lifetime_counts_from_the_request_and_every_read_renews_it() -> None:
    cache = PrefixCache()
    prompt = (block("a", ttl_s=FIVE_MINUTES),)
    ask(cache, *prompt, now=0)
    assert ask(cache, *prompt, now=299).read_tokens == 100
    assert ask(cache, *prompt, now=598).read_tokens == 100
    assert ask(cache, *prompt, now=898).read_tokens == 0


def test_an_hour_is_an_hour() -> None:
    cache = PrefixCache()
    ask(cache, block("a", ttl_s=HOUR), now=0)
    assert ask(cache, block("a", ttl_s=HOUR), now=3599).read_tokens == 100
    assert ask(cache, block("a", ttl_s=HOUR), now=3599 + 3600).read_tokens == 0


def test_reading_a_prefix_does_not_lengthen_the_lifetime_it_was_written_with() -> None:
    cache = PrefixCache()
    ask(cache, block("a", ttl_s=FIVE_MINUTES), now=0)
    ask(cache, block("a", ttl_s=HOUR), now=100)
    assert ask(cache, block("a", ttl_s=HOUR), now=400).read_tokens == 0


def test_each_lifetime_pays_for_its_own_part() -> None:
    cache = PrefixCache()
    first = ask(cache, block("tools", 150, ttl_s=HOUR), block("chat", 250, ttl_s=FIVE_MINUTES), block("q", 3))
    assert first.written_by_ttl == {HOUR: 150, FIVE_MINUTES: 250}
    later = (block("tools", 150, ttl_s=HOUR), block("chat", 250, ttl_s=FIVE_MINUTES), block("q", 3))
    assert ask(cache, *later, now=301).written_by_ttl == {FIVE_MINUTES: 250}


def test_reading_a_long_prefix_renews_the_breakpoints_inside_it() -> None:
    cache = PrefixCache()
    prompt = (block("system", ttl_s=FIVE_MINUTES), block("chat", ttl_s=FIVE_MINUTES))
    ask(cache, *prompt, now=0)
    ask(cache, *prompt, now=200)
    assert ask(cache, block("system", ttl_s=FIVE_MINUTES), block("other"), now=400).read_tokens == 100


def test_below_the_minimum_nothing_is_cached_and_nothing_fails() -> None:
    cache = PrefixCache()
    for _ in range(2):
        assert figures(ask(cache, block("a", 1023, ttl_s=FIVE_MINUTES), minimum=1024)) == (0, 0, 1023)
    assert figures(ask(cache, block("a", 1024, ttl_s=FIVE_MINUTES), minimum=1024)) == (0, 1024, 0)


def test_a_breakpoint_below_the_minimum_leaves_its_part_to_the_next_one() -> None:
    plan = ask(PrefixCache(), block("a", 50, ttl_s=HOUR), block("b", 100, ttl_s=FIVE_MINUTES), minimum=100)
    assert plan.written_by_ttl == {FIVE_MINUTES: 150}


def test_the_lookback_sees_twenty_blocks_the_marked_one_included() -> None:
    blocks = [block(str(number)) for number in range(25)]
    for written, read in ((5, 600), (4, 0)):  # block 24 sees 24, 23, … 5
        cache = PrefixCache()
        ask(cache, *blocks[:written], block(str(written), ttl_s=FIVE_MINUTES))
        assert ask(cache, *blocks[:24], block("24", ttl_s=FIVE_MINUTES)).read_tokens == read
        assert ask(cache, *blocks[:24], block("24", ttl_s=FIVE_MINUTES), lookback=None).read_tokens == 2500


def test_a_run_of_tool_results_counts_as_one_block_in_the_lookback() -> None:
    start = block("start")
    results = [block(f"result {number}", run="tool_result") for number in range(30)]
    cache = PrefixCache()
    ask(cache, block("start", ttl_s=FIVE_MINUTES))
    assert ask(cache, start, *results, block("end", ttl_s=FIVE_MINUTES)).read_tokens == 100


def test_a_change_in_the_middle_spoils_what_comes_after_it_only() -> None:
    cache = PrefixCache()
    ask(cache, block("tools", ttl_s=FIVE_MINUTES), block("system", ttl_s=FIVE_MINUTES), block("chat"))
    changed = ask(cache, block("tools", ttl_s=FIVE_MINUTES), block("changed", ttl_s=FIVE_MINUTES), block("chat"))
    assert figures(changed) == (100, 100, 100)


def test_the_cache_is_bounded_and_forgets_what_was_not_used_longest() -> None:
    cache = PrefixCache(max_entries=2)
    for name in ("a", "b"):
        ask(cache, block(name, ttl_s=FIVE_MINUTES))
    ask(cache, block("a", ttl_s=FIVE_MINUTES))
    ask(cache, block("c", ttl_s=FIVE_MINUTES))
    assert cache.live(0) == 2
    assert ask(cache, block("a", ttl_s=FIVE_MINUTES)).read_tokens == 100
    assert ask(cache, block("b", ttl_s=FIVE_MINUTES)).read_tokens == 0


def test_only_what_still_lives_is_counted() -> None:
    cache = PrefixCache()
    cache.begin(Plan(1, 0.0, writes=(Write(Prefix(b"x", 1), 10), Write(Prefix(b"y", 1), 20))))
    assert [cache.live(now) for now in (9, 10, 20)] == [2, 1, 0]


def test_in_steps_a_shared_beginning_is_read_in_multiples_of_128() -> None:
    cache = PrefixCache()
    shared = block("shared", 1500)
    assert figures(ask_in_steps(cache, shared, block("one", 300))) == (0, 0, 1800)
    assert figures(ask_in_steps(cache, shared, block("two", 300))) == (1408, 0, 392)
    assert figures(ask_in_steps(cache, shared, block("two", 300))) == (1792, 0, 8)


def test_in_steps_a_prompt_below_1024_tokens_is_never_read() -> None:
    cache = PrefixCache()
    ask_in_steps(cache, block("a", 1023))
    assert ask_in_steps(cache, block("a", 1023)).read_tokens == 0


def test_in_steps_too_a_read_renews() -> None:
    cache = PrefixCache()
    ask_in_steps(cache, block("a", 1024), now=0)
    assert ask_in_steps(cache, block("a", 1024), now=599).read_tokens == 1024
    assert ask_in_steps(cache, block("a", 1024), now=1198).read_tokens == 1024
    assert ask_in_steps(cache, block("a", 1024), now=1798).read_tokens == 0


@dataclass
class Model:
    """The rules again, the slow way: prompts as tuples of words, no digests, no order of search."""

    lives: dict[tuple[bytes, ...], tuple[int, float]] = field(default_factory=dict)

    def figures(self, blocks: list[Block], now: float) -> tuple[int, int]:
        words = [block.content for block in blocks]
        marks = [index for index, block in enumerate(blocks) if block.ttl_s]

        def lives(index: int) -> bool:
            return self.lives.get(tuple(words[: index + 1]), (0, 0.0))[1] > now

        in_sight = {index for mark in marks for index in range(max(0, mark - 2), mark + 1)}
        hit = max((index for index in in_sight if lives(index)), default=-1)
        for index in {hit, *marks}:
            if 0 <= index <= hit and lives(index):
                ttl_s = self.lives[tuple(words[: index + 1])][0]
                self.lives[tuple(words[: index + 1])] = (ttl_s, now + ttl_s)
        for mark in marks:
            ttl_s = blocks[mark].ttl_s or 0
            known = self.lives.get(tuple(words[: mark + 1]), (0, 0.0))
            if mark > hit and known[1] < now + ttl_s:
                self.lives[tuple(words[: mark + 1])] = (ttl_s, now + ttl_s)
        last = max((mark for mark in marks if mark > hit), default=hit)
        return tokens_in(blocks[: hit + 1]), tokens_in(blocks[hit + 1 : last + 1])


words = st.builds(block, st.sampled_from("ab"), st.just(1), ttl_s=st.sampled_from([None, None, 5, 20]))
requests = st.tuples(st.lists(words, min_size=1, max_size=6), st.integers(0, 12))


@settings(max_examples=60)
@given(st.lists(requests, max_size=12))
def test_any_sequence_of_requests_reads_and_writes_as_the_model_says(sequence: list[tuple[list[Block], int]]) -> None:
    cache, model, now = PrefixCache(), Model(), 0
    for blocks, passed in sequence:
        now += passed
        plan = ask(cache, *blocks, now=now, minimum=1, lookback=3)
        assert (plan.read_tokens, plan.written_tokens) == model.figures(blocks, now)
        assert plan.uncached_tokens >= 0
