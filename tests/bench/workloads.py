"""The workloads: what is asked of the relay, how often, and how the provider answers."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

PARAGRAPH = 'The relay keeps the order of every event. "Quoted" text, café, tabs\tand newlines\nappear too. '


@dataclass(frozen=True, slots=True)
class Workload:
    """``events`` 0: the answer is no stream.  ``rate`` None: each connection sends again once it was answered."""

    name: str
    what: str
    connections: int
    events: int = 0
    gap_ms: int = 0
    rate: float | None = None
    prompt_bytes: int = 100
    warmup_s: float = 1.5
    window_s: float = 5.0
    ramp_s: float = 0.0  # over which the connections are opened
    holds: bool = False  # streams that stay open: it is their memory that counts

    @property
    def streams(self) -> bool:
        return self.events > 0

    def scaled(self, factor: float) -> Workload:
        return replace(self, window_s=self.window_s * factor)

    def body(self) -> bytes:
        """The request; ``BENCH(…)`` in it tells the provider how to answer."""
        text = (PARAGRAPH * (self.prompt_bytes // len(PARAGRAPH) + 1))[: self.prompt_bytes]
        request = {
            "model": "claude-bench",
            "max_tokens": 1024,
            "system": [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}],
            "messages": [{"role": "user", "content": f"BENCH({self.events},{self.gap_ms}) Say something."}],
            "stream": self.streams,
        }
        return json.dumps(request).encode()


WORKLOADS = (
    Workload("W1sat", "small request, no stream; 32 in flight", 32),
    Workload("W1r50", "small request, no stream; 50 per second", 64, rate=50, window_s=6),
    Workload("W2sat", "stream of 200 events, no pause; 16 in flight", 16, events=200),
    Workload("W3x100", "100 streams, an event each 20 ms", 100, events=100, gap_ms=20, warmup_s=3, ramp_s=2),
    Workload("W3x500", "500 streams, an event each 20 ms", 500, events=100, gap_ms=20, warmup_s=5, ramp_s=2),
    Workload("W5sat", "prompt of 400 KB, no stream; 8 in flight", 8, prompt_bytes=400_000),
    Workload("H500", "500 open streams", 500, events=300, gap_ms=1000, warmup_s=8, ramp_s=5, holds=True),
    Workload("H2000", "2,000 open streams", 2000, events=300, gap_ms=1000, warmup_s=25, ramp_s=20, holds=True),
)
