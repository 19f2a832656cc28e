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
    connection = http.client.HTTPConnection(reachable(settings.host), settings.port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"no answer from {settings.host} port {settings.port}: {error}"
    finally:
        connection.close()
    return None if status == 200 else f"/healthz answered {status}"


def worker(settings: Settings) -> str | None:
    """None when a worker of this host has lately given a sign of life, or Redis cannot be asked; else what is wrong."""
    from relay.broker.health import silence_s

    silence = asyncio.run(silence_s(settings.redis_url, socket.gethostname()))
    if silence is None:
        return "no worker of this host is registered"
    return f"silent for {silence:.0f} s" if silence > STALE_S else None
