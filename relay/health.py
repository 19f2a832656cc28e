"""``relay health``: whether the process in this container is well, for HEALTHCHECK and liveness probes.

Only the process itself is judged. A Redis that is away makes no ingress or worker unwell: restarting them would cut
the streams they hold, and help nobody.
"""

from __future__ import annotations

import asyncio
import http.client
import socket

from relay.local.up import reachable
from relay.settings import Settings

_TIMEOUT_S = 3.0

# Workers write to their RQ record every few seconds; this many without a word is a stalled loop, not a busy one.
STALE_S = 90.0


def ingress(settings: Settings) -> str | None:
    """None when the ingress answers, else what is wrong."""
    return _answers(settings, settings.port)


def console(settings: Settings) -> str | None:
    return _answers(settings, settings.console_port)


def ledger(settings: Settings) -> str | None:
    """As ``worker``."""
    from relay.broker.health import ledger_silence_s
    from relay.broker.keys import Keys
    from relay.broker.usage_reader import GROUP

    stream = Keys(settings.partition).usage
    return _judged("ledger", asyncio.run(ledger_silence_s(settings.redis_url, stream, GROUP, socket.gethostname())))


def _answers(settings: Settings, port: int) -> str | None:
    connection = http.client.HTTPConnection(reachable(settings.host), port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"no answer from {settings.host} port {port}: {error}"
    finally:
        connection.close()
    return None if status == 200 else f"/healthz answered {status}"


def worker(settings: Settings) -> str | None:
    """None when a worker of this host has lately given a sign of life, or Redis cannot be asked; else what is wrong."""
    from relay.broker.health import silence_s

    return _judged("worker", asyncio.run(silence_s(settings.redis_url, socket.gethostname())))


def _judged(process: str, silence: float | None) -> str | None:
    if silence is None:
        return f"no {process} of this host is registered"
    return f"silent for {silence:.0f} s" if silence > STALE_S else None
