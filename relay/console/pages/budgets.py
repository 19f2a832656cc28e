"""Budgets and how they stand: everybody sees those of their tenant, admins see all of them, set and remove them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from relay.broker.api_keys import ApiKey
from relay.broker.budgets import Account
from relay.console.pages import DASHBOARD
from relay.console.pages.site import Site, Visit
from relay.console.viewer import MANAGE_KEYS, USAGE, Viewer
from relay.core.budget import KEY, TENANT, Bound, Budget, Period, Standing, Unit, parse
from relay.core.errors import InvalidRequest

PATH: Final = f"{DASHBOARD}/budgets"


class Field(NamedTuple):
    """A row of the form: the bounds in one unit and period."""

    period: Period
    unit: Unit
    word: str  # of the unit, as ``parse`` takes it

    def name(self, kind: str) -> str:
        return f"{kind}_{self.unit}_{self.period}"


FIELDS: Final = (
    Field("day", "money", "USD"),
    Field("month", "money", "USD"),
    Field("day", "tokens", "tokens"),
    Field("month", "tokens", "tokens"),
)


class Holder(NamedTuple):
    """Who may have a budget: ``id`` as in ``relay.core.budget``, and how people call them."""

    id: str
    name: str
    tenant: str


class BudgetsPage:
    def __init__(self, site: Site) -> None:
        self._site = site

    def router(self) -> APIRouter:
        router = APIRouter()
        router.add_api_route(PATH, self.show, methods=["GET"])
        router.add_api_route(PATH, self.set, methods=["POST"])
        router.add_api_route(f"{PATH}/remove", self.remove, methods=["POST"])
        return router

    async def show(self, request: Request) -> Response:
        return await self._page(await self._site.visit(request, USAGE))

    async def set(self, request: Request) -> Response:
        visit = await self._site.visit(request, MANAGE_KEYS)
        given = await self._site.form(visit)
        try:
            holder, budget = await self._known(given), _budget(given)
        except InvalidRequest as error:
            return await self._page(visit, 400, trouble=error.message, given=given)
        await self._site.console.budgets.set(holder, budget)
        return RedirectResponse(PATH, 303)

    async def remove(self, request: Request) -> Response:
        """Also that of a key which is gone."""
        visit = await self._site.visit(request, MANAGE_KEYS)
        given = await self._site.form(visit)
        await self._site.console.budgets.remove(given.get("whose", ""))
        return RedirectResponse(PATH, 303)

    async def _known(self, given: Mapping[str, str]) -> str:
        holder = given.get("whose", "")
        if holder not in {each.id for each in _holders(await self._site.console.api_keys.list())}:
            raise InvalidRequest(f"Whose: {holder[:80]!r} is no tenant or key of this relay.")
        return holder

    async def _page(
        self, visit: Visit, status: int = 200, *, trouble: str = "", given: Mapping[str, str] | None = None
    ) -> Response:
        accounts = await self._site.console.budgets.accounts()
        holders = {each.id: each for each in _holders(await self._site.console.api_keys.list())}
        chosen = visit.request.query_params.get("whose", "")
        budget = next((account.budget for account in accounts if account.holder == chosen), Budget(()))
        return self._site.page(
            "budgets.html",
            visit,
            status,
            accounts=[account for account in accounts if _may_see(visit.viewer, account, holders)],
            holders=holders,
            may_manage=visit.viewer.may(MANAGE_KEYS),
            trouble=trouble,
            given=given or {"whose": chosen} | _filled_in(budget),
            fields=FIELDS,
            change=lambda account: f"{PATH}?whose={quote(account.holder)}#set",
            left=_left,
        )


def _holders(keys: list[ApiKey]) -> list[Holder]:
    """Tenants, then the keys that are in use, by name."""
    tenants = [Holder(TENANT + tenant, tenant, tenant) for tenant in sorted({key.tenant for key in keys})]
    used = sorted((key for key in keys if key.revoked_at is None), key=lambda key: (key.name, key.id))
    return [*tenants, *[Holder(KEY + key.id, f"{key.name} ({key.id})", key.tenant) for key in used]]


def _may_see(viewer: Viewer, account: Account, holders: Mapping[str, Holder]) -> bool:
    if viewer.tenant is None:
        return True
    holder = holders.get(account.holder)
    return holder is not None and holder.tenant == viewer.tenant


def _budget(given: Mapping[str, str]) -> Budget:
    """Raises ``InvalidRequest``."""
    texts = [
        f"{'soft ' if kind == 'soft' else ''}{value} {field.word} a {field.period}"
        for field in FIELDS
        for kind in ("soft", "hard")
        if (value := given.get(field.name(kind), ""))
    ]
    try:
        return parse(texts)
    except ValueError as error:
        raise InvalidRequest(f"Budget: {error}.") from None


def _filled_in(budget: Budget) -> dict[str, str]:
    """The form's fields for a budget that is to be changed."""
    found = {(bound.period, bound.unit): bound for bound in budget.bounds}
    filled = {}
    for field in FIELDS:
        bound = found.get((field.period, field.unit), Bound(field.period, field.unit))
        for kind, value in (("soft", bound.soft), ("hard", bound.hard)):
            if value:
                filled[field.name(kind)] = _plain(field.unit, value)
    return filled


def _plain(unit: Unit, value: int) -> str:
    if unit == "tokens":
        return str(value)
    whole, fraction = divmod(value, 10**9)
    return f"{whole}.{fraction:09}".rstrip("0").rstrip(".")


def _left(standing: Standing) -> str:
    """``3 d 4 h``, ``10 h 23 min``, to the end of the period."""
    minutes = standing.left_s // 60
    days, hours = divmod(minutes // 60, 24)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes % 60} min"
