"""Room for sockets: a stream costs one in the ingress and one in the worker, and shells allow 1024 by default."""

from __future__ import annotations

import resource

# What 1,000 streams need many times over; the kernel's own bound per process is usually a million.
WANTED = 65_536


def allow_many() -> None:
    """Raise this process's limit of open files as far as the system lets it, up to ``WANTED``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = WANTED if hard == resource.RLIM_INFINITY else min(hard, WANTED)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
