"""Who is logged in to the dashboard: a signed cookie that names an API key, and nothing on the server.

The key is looked up with every request, so that a revoked one is out within seconds. A session also has the token that
its forms must bring back; a page elsewhere cannot read it. Signed with the partition's secret, as stream tokens are,
for an audience of its own.
"""

from __future__ import annotations

import hmac
import secrets
import time
from dataclasses import dataclass
from typing import Final

import jwt

from relay.broker.api_keys import ApiKey, ApiKeys
from relay.broker.stream_secret import StreamSecret
from relay.core.errors import Unauthenticated

COOKIE: Final = "relay_session"
# A working day; then the key is asked for again.
TTL_S: Final = 12 * 3600
# A session has some 320 bytes.
CHARS_MAX: Final = 1024

_ALGORITHM, _AUDIENCE = "HS256", "relay/console-session"
_CLAIMS = ["aud", "csrf", "exp", "sub"]


@dataclass(frozen=True, slots=True)
class Session:
    key: ApiKey
    csrf: str

    def has_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.csrf.encode())


class Sessions:
    """Begun by a key, found again by their cookie.  Raises ``Unavailable`` when Redis cannot be asked."""

    def __init__(self, secret: StreamSecret, api_keys: ApiKeys) -> None:
        self._secret = secret
        self._api_keys = api_keys

    async def begin(self, key: ApiKey) -> str:
        """The cookie's value."""
        secret = await self._secret.to_sign(TTL_S)
        claims = {"aud": _AUDIENCE, "sub": key.digest, "csrf": secrets.token_urlsafe(24)}
        return jwt.encode(claims | {"exp": int(time.time()) + TTL_S}, secret, _ALGORITHM)

    async def of(self, cookie: str | None) -> Session | None:
        """The session behind a cookie; None when there is none, or not any more."""
        if not cookie or len(cookie) > CHARS_MAX or (secret := await self._secret.to_check()) is None:
            return None
        try:
            claims = jwt.decode(cookie, secret, [_ALGORITHM], audience=_AUDIENCE, options={"require": _CLAIMS})
            key = await self._api_keys.known(claims["sub"])
        except (jwt.InvalidTokenError, Unauthenticated):
            return None
        return Session(key, claims["csrf"]) if key else None
