"""What the pages share: templates, the session of whoever looks, and the care that forms need.

A form is taken only from a page of ours: its token must be the session's, and the browser must say that it comes from
here. No page trusts the cookie alone.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, quote, urlsplit

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import ClientDisconnect

from relay.console.pages import DASHBOARD, STATIC, words
from relay.console.session import COOKIE, Session
from relay.console.viewer import JOBS, MANAGE_KEYS, USAGE, Viewer
from relay.console.wiring import Console
from relay.core.errors import Forbidden, InvalidRequest, TooLarge

# The largest form, a login, has some 600 bytes.
FORM_BYTES_MAX: Final = 8192


class Place(NamedTuple):
    """An entry of the navigation, for those who may go there."""

    name: str
    path: str
    scope: str


NAVIGATION: Final = (
    Place("Overview", DASHBOARD, USAGE),
    Place("Usage", f"{DASHBOARD}/usage", USAGE),
    Place("Jobs", f"{DASHBOARD}/jobs", JOBS),
    Place("Budgets", f"{DASHBOARD}/budgets", USAGE),
    Place("Keys", f"{DASHBOARD}/keys", MANAGE_KEYS),
)


class LoginNeeded(Exception):
    """There is no session; ``path`` is where to go once there is."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def redirect(self) -> Response:
        return RedirectResponse(f"{DASHBOARD}/login?next={quote(self.path)}", 303)


class Visit(NamedTuple):
    """A request by somebody who is logged in."""

    request: Request
    session: Session

    @property
    def viewer(self) -> Viewer:
        return Viewer(self.session.key)


class Site:
    """The pages' common ground."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._templates = Environment(
            loader=PackageLoader("relay.console"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._templates.filters.update(words.FILTERS)
        self._templates.globals.update(dashboard=DASHBOARD, static=STATIC)

    async def visit(self, request: Request, scope: str | None = None) -> Visit:
        """Who comes.  Raises ``LoginNeeded``, and ``Forbidden`` where their key lacks the scope."""
        session = await self.console.sessions.of(request.cookies.get(COOKIE))
        if session is None:
            query = f"?{request.url.query}" if request.url.query else ""
            raise LoginNeeded(request.url.path + query if request.method == "GET" else DASHBOARD)
        visit = Visit(request, session)
        if scope:
            visit.viewer.require(scope)
        return visit

    async def form(self, visit: Visit) -> dict[str, str]:
        """What a form of ours says.  Raises ``Forbidden`` when it is none of ours."""
        check_origin(visit.request)
        given = await read_form(visit.request)
        if not visit.session.has_token(given.pop("token", "")):
            raise Forbidden("This form is out of date; go back, reload the page and try again.")
        return given

    def page(self, template: str, visit: Visit | None, http_status: int = 200, **context: Any) -> Response:
        return HTMLResponse(self.render(template, visit, **context), http_status)

    def render(self, template: str, visit: Visit | None, **context: Any) -> str:
        viewer = visit.viewer if visit else None
        places = [place for place in NAVIGATION if viewer and viewer.may(place.scope)]
        return self._templates.get_template(template).render(
            viewer=viewer,
            token=visit.session.csrf if visit else "",
            here=visit.request.url.path if visit else "",
            places=places,
            **context,
        )

    async def tenants(self, viewer: Viewer) -> list[str]:
        """Whom a viewer may choose from; just themselves unless they are an admin."""
        if viewer.tenant is not None:
            return [viewer.tenant]
        return sorted({key.tenant for key in await self.console.api_keys.list()})


def check_origin(request: Request) -> None:
    """Raises ``Forbidden`` for a form that another site's page sends; browsers name the page with every POST."""
    origin = request.headers.get("origin", "")
    same_host = urlsplit(origin).netloc == request.headers.get("host") != ""
    if not same_host or request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise Forbidden("This form does not come from a page of this console.")


async def read_form(request: Request) -> dict[str, str]:
    """The fields; several of one name are joined by blanks.  Raises ``InvalidRequest`` and ``TooLarge``."""
    raw = bytearray()
    try:
        async for piece in request.stream():
            raw += piece
            if len(raw) > FORM_BYTES_MAX:
                raise TooLarge(f"The form is longer than {FORM_BYTES_MAX} bytes.")
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, max_num_fields=50)
    except ClientDisconnect as error:
        raise InvalidRequest("The form was cut off.") from error
    except ValueError as error:
        raise InvalidRequest("This is no form.") from error
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        fields.setdefault(name, []).append(value.replace("\0", ""))
    return {name: " ".join(values).strip() for name, values in fields.items()}
