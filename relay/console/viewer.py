"""Who looks, and what they may see: an API key, in a header or behind a session.

A key sees its own tenant, within its scopes; one with the scope ``admin`` sees and manages all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from relay.broker.api_keys import ADMIN, CONTENT_SCOPES, ApiKey
from relay.core.errors import Forbidden

USAGE, JOBS, MANAGE_JOBS, MANAGE_KEYS = "usage:read", "jobs:read", "jobs:write", ADMIN
CONTENT, ERASE_CONTENT = CONTENT_SCOPES
NO_TENANT: Final = None


@dataclass(frozen=True, slots=True)
class Viewer:
    key: ApiKey

    @property
    def is_admin(self) -> bool:
        return ADMIN in self.key.scopes

    @property
    def tenant(self) -> str | None:
        """The one tenant they may see; None: all."""
        return NO_TENANT if self.is_admin else self.key.tenant

    def may(self, scope: str) -> bool:
        return self.is_admin or scope in self.key.scopes

    def require(self, scope: str) -> None:
        """Raises ``Forbidden``."""
        if not self.may(scope):
            raise Forbidden(f"This API key may not do this: it lacks the scope {scope}.")

    def narrowed(self, tenant: str | None) -> str | None:
        """The tenant to ask about, where one was named.  Raises ``Forbidden``."""
        if tenant and self.tenant not in (NO_TENANT, tenant):
            raise Forbidden(f"This API key sees the tenant {self.tenant!r} only, not {tenant[:80]!r}.")
        return tenant or self.tenant
