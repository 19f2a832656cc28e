"""What each long-running process sets for itself when it starts: room for sockets, and a calm garbage collector."""

from __future__ import annotations

import gc
import resource

# A stream costs a socket in the ingress and one in the worker, and shells allow 1024 by default. Enough for 1,000
# streams many times over; the kernel's own bound per process is usually a million.
OPEN_FILES = 65_536

# Container objects made before a collection, instead of CPython's 700: events make few cycles and much litter.
GENERATION_0 = 10_000


def settle() -> None:
    """Call it when everything is imported and made, before the first request."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    # Modules and settings stay for ever: let no collection look at them again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GENERATION_0, 20, 20)
