"""Where jobs stand: in the queue, behind it in their lane, or in no line at all."""

from __future__ import annotations

from relay.broker.line import Line
from tests.broker.system import Broker, Worker

# See ``lanes.lua``: so many are called up into the queue, the others wait in their lanes.
CALLED_UP = 64


async def test_jobs_in_the_queue_stand_behind_each_other(broker: Broker, worker: Worker) -> None:
    line = Line(broker.link, broker.keys, broker.limits.queue)
    jobs = [await broker.submit() for _ in range(3)]
    assert [await line.ahead(job) for job in jobs] == [0, 1, 2]
    await worker.claim()
    assert [await line.ahead(job) for job in jobs] == [None, 0, 1]


async def test_a_lane_stands_behind_the_queue(broker: Broker) -> None:
    line = Line(broker.link, broker.keys, broker.limits.queue)
    jobs = [await broker.submit() for _ in range(CALLED_UP + 3)]
    assert [await line.ahead(job) for job in jobs] == list(range(CALLED_UP + 3))
    other = await broker.submit(tenant="another")
    assert await line.ahead(other) == CALLED_UP
