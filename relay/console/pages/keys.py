"""API keys, for admins: listed, made and revoked. A new key is shown on the one page that answers its form."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from relay.broker.api_keys import ALL_SCOPES, SCOPES, ApiKey
from relay.console.pages import DASHBOARD
from relay.console.pages.site import Site, Visit
from relay.console.viewer import MANAGE_KEYS
from relay.core.errors import InvalidRequest, NotFound

NAME_CHARS_MAX: Final = 100
LOGS: Final = {"": "usage", "content": "usage and content"}
CACHES: Final = {"": "as the settings say", "auto": "put breakpoints where none are set", "off": "never any of ours"}


class KeysPage:
    def __init__(self, site: Site) -> None:
        self._site = site

    def router(self) -> APIRouter:
        router = APIRouter()
        router.add_api_route(f"{DASHBOARD}/keys", self.show, methods=["GET"])
        router.add_api_route(f"{DASHBOARD}/keys", self.create, methods=["POST"])
        router.add_api_route(f"{DASHBOARD}/keys/{{key_id}}/revoke", self.revoke, methods=["POST"])
        return router

    async def show(self, request: Request) -> Response:
        return await self._page(await self._site.visit(request, MANAGE_KEYS))

    async def create(self, request: Request) -> Response:
        visit = await self._site.visit(request, MANAGE_KEYS)
        given = await self._site.form(visit)
        try:
            name, tenant = _named(given, "name"), _named(given, "tenant")
            scopes, expires_at = _scopes(given), _expiry(given.get("expires", ""))
            if (cache := given.get("cache", "")) not in CACHES:
                raise InvalidRequest(f"Cache: {cache[:40]!r} is not a choice.")
            if (log := given.get("log", "")) not in LOGS:
                raise InvalidRequest(f"Log: {log[:40]!r} is not a choice.")
        except InvalidRequest as error:
            return await self._page(visit, 400, trouble=error.message, given=given)
        keys = self._site.console.api_keys
        record, key = await keys.create(name, tenant, scopes=scopes, expires_at=expires_at, cache=cache, log=log)
        return await self._page(visit, made=record, key=key)

    async def revoke(self, request: Request, key_id: str) -> Response:
        visit = await self._site.visit(request, MANAGE_KEYS)
        await self._site.form(visit)
        keys = self._site.console.api_keys
        if key_id not in {record.id for record in await keys.list()}:
            raise NotFound(f"No API key has the id {key_id[:80]!r}.")
        await keys.revoke(key_id)
        return RedirectResponse(f"{DASHBOARD}/keys", 303)

    async def _page(
        self,
        visit: Visit,
        status: int = 200,
        *,
        trouble: str = "",
        given: dict[str, str] | None = None,
        made: ApiKey | None = None,
        key: str = "",
    ) -> Response:
        records = await self._site.console.api_keys.list()
        return self._site.page(
            "keys.html",
            visit,
            status,
            trouble=trouble,
            given=given or {"tenant": visit.viewer.key.tenant, "scopes": " ".join(SCOPES)},
            made=made,
            key=key,
            records=sorted(records, key=lambda record: (record.revoked_at is not None, -record.created_at)),
            scopes=ALL_SCOPES,
            caches=CACHES,
            logs=LOGS,
            budgets={holder: budget.words for holder, budget in (await self._site.console.budgets.all()).items()},
            now=time.time(),
        )


def _named(given: dict[str, str], field: str) -> str:
    value = given.get(field, "")
    if not value or len(value) > NAME_CHARS_MAX or not value.isprintable():
        raise InvalidRequest(f"{field.capitalize()}: give 1 to {NAME_CHARS_MAX} printable characters.")
    return value


def _scopes(given: dict[str, str]) -> tuple[str, ...]:
    chosen = given.get("scopes", "").split()
    if not chosen or (strange := [scope for scope in chosen if scope not in ALL_SCOPES]):
        raise InvalidRequest(f"Scopes: {strange[0][:40]!r} is none." if chosen else "Scopes: choose at least one.")
    return tuple(scope for scope in ALL_SCOPES if scope in chosen)


def _expiry(text: str) -> int | None:
    """The beginning of the day, UTC, as ``relay keys create`` has it."""
    if not text:
        return None
    try:
        moment = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise InvalidRequest(f"Expires: {text[:40]!r} is not a date such as 2027-01-31.") from None
    if moment <= datetime.now(UTC):
        raise InvalidRequest(f"Expires: {text} is in the past.")
    return int(moment.timestamp())
