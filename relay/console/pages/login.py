"""Login by an API key, and logout."""

from __future__ import annotations

import math
import re
import time

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from relay.console.guesses import Guesses
from relay.console.pages import DASHBOARD
from relay.console.pages.site import Site, check_origin, read_form
from relay.console.session import COOKIE, TTL_S
from relay.console.viewer import USAGE, Viewer
from relay.core.errors import Forbidden, TooManyRequests, Unauthenticated, Unavailable

# Only to a page of the dashboard: a link to this page must not lead elsewhere.
_NEXT = re.compile(rf"{DASHBOARD}(/[\w.-]+)*(\?[\w.&=%+:-]*)?", re.ASCII)


class LoginPage:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._guesses = Guesses()

    def router(self) -> APIRouter:
        router = APIRouter()
        router.add_api_route(f"{DASHBOARD}/login", self.show, methods=["GET"])
        router.add_api_route(f"{DASHBOARD}/login", self.login, methods=["POST"])
        router.add_api_route(f"{DASHBOARD}/logout", self.logout, methods=["POST"])
        return router

    async def show(self, request: Request) -> Response:
        wanted = _checked(request.query_params.get("next", ""))
        return self._site.page("login.html", None, next=wanted, trouble="")

    async def login(self, request: Request) -> Response:
        check_origin(request)
        given = await read_form(request)
        wanted = _checked(given.get("next", ""))
        address = request.client.host if request.client else ""
        if wait_s := self._guesses.attempt(address, time.monotonic()):
            return self._refused(wanted, math.ceil(wait_s))
        try:
            key = await self._site.console.api_keys.authenticate(given.get("key"))
            Viewer(key).require(USAGE)
        except (Unauthenticated, Forbidden) as error:
            return self._site.page("login.html", None, error.status, next=wanted, trouble=error.message)
        except Unavailable:
            self._guesses.take_back(address)  # nobody has learnt anything
            raise
        self._guesses.take_back(address)
        response = RedirectResponse(wanted, 303)
        cookie = await self._site.console.sessions.begin(key)
        response.set_cookie(
            COOKIE, cookie, TTL_S, path=DASHBOARD, secure=_is_https(request), httponly=True, samesite="strict"
        )
        return response

    def _refused(self, wanted: str, wait_s: int) -> Response:
        trouble = f"Too many attempts to log in have failed. Try again in {wait_s} s."
        response = self._site.page("login.html", None, TooManyRequests.status, next=wanted, trouble=trouble)
        response.headers["retry-after"] = str(wait_s)
        return response

    async def logout(self, request: Request) -> Response:
        await self._site.form(await self._site.visit(request))
        response = RedirectResponse(f"{DASHBOARD}/login", 303)
        response.delete_cookie(COOKIE, path=DASHBOARD, secure=_is_https(request), httponly=True, samesite="strict")
        return response


def _checked(wanted: str) -> str:
    return wanted if _NEXT.fullmatch(wanted) else DASHBOARD


def _is_https(request: Request) -> bool:
    """Believed of anybody: whoever lies about it only keeps their own cookie from themselves."""
    return "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
