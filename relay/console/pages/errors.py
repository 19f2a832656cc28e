"""What went wrong, as a page."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import Response

from relay.console.answers import retry_headers
from relay.console.pages.site import LoginNeeded, Site, Visit
from relay.core.errors import RelayError, Unavailable


async def error_page(site: Site, request: Request, error: RelayError) -> Response:
    """With the navigation of whoever is logged in, as far as that can be found out now."""
    visit: Visit | None
    try:
        visit = await site.visit(request)
    except (LoginNeeded, Unavailable):
        visit = None
    title = error.code.replace("_", " ").capitalize()
    response = site.page("error.html", visit, error.status, title=title, message=error.message)
    response.headers.update(retry_headers(error))
    return response
