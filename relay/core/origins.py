"""The origins of web pages (RFC 6454), as an operator lists them and as browsers send them.

``settings`` checks with it what an operator wrote, ``relay.ingress.main`` reads the same text again.
"""

from __future__ import annotations

import re

# Not only http and https: apps in a web view have schemes of their own. Browsers write hosts in small letters.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?", re.ASCII)


def origins_of(text: str) -> tuple[str, ...]:
    """The origins in a list with commas between.  Raises ``ValueError`` naming the one that is none."""
    origins = tuple(filter(None, map(str.strip, text.split(","))))
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin[:80]!r} is not the origin of a page, such as 'https://app.example.com'")
    return origins
