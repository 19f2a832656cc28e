"""W3C Trace Context: whether what a client says of its trace can be believed, and travel on.

The ingress asks.  A header that is malformed is ignored, as the standard has it: a trace that cannot be joined is no
reason to refuse a request.  It makes no ids of its own; who records spans (``relay.telemetry``) does.
"""

from __future__ import annotations

import re

PARENT, STATE = "traceparent", "tracestate"

# Version ff is forbidden, and so are ids of zeros. A later version may have more fields behind those of version 00.
_PARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?P<more>-[ -~]*)?", re.ASCII
)
_VERSION_00 = "00-"

_MEMBERS_MAX = 32
_MEMBER = re.compile(r"[a-z0-9][a-z0-9_*/@-]{0,255}=[ -+\--<>-~]{0,255}[!-+\--<>-~]", re.ASCII)


def headers(parent: str, state: str = "") -> dict[str, str]:
    """The headers by which the trace goes on, none if there is no trace to join.

    A bad ``tracestate`` is left out alone: what vendors add to a trace does not decide whether there is one.
    """
    parent, state = parent.strip(), state.strip()
    found = _PARENT.fullmatch(parent)
    if not found or (found["more"] and parent.startswith(_VERSION_00)):
        return {}
    return {PARENT: parent, STATE: state} if _is_state(state) else {PARENT: parent}


def _is_state(text: str) -> bool:
    members = [member for each in text.split(",") if (member := each.strip(" \t"))]
    return 0 < len(members) <= _MEMBERS_MAX and all(map(_MEMBER.fullmatch, members))
