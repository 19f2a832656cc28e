"""Who may see which job: what every endpoint below ``/v1/jobs`` asks first."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Path, Request

from relay.broker.api_keys import ApiKey
from relay.core.errors import NotFound
from relay.ingress.headers import by_name
from relay.ingress.requests import authenticate, check_scope
from relay.ingress.wiring import Ingress

ID_EXAMPLE = "0-0199a1b2c3d47e5f8a9b0c1d2e3f4a5b"
JobId = Annotated[str, Path(description="As in the header `x-relay-job-id`.", examples=[ID_EXAMPLE])]

_ID = re.compile(r"([a-z0-9]{1,16})-[0-9a-f]{32}", re.ASCII)


async def key_of(ingress: Ingress, request: Request, scope: str) -> ApiKey:
    """Whose request this is.  Raises ``Unauthenticated``, ``Forbidden`` and ``Unavailable``."""
    key = await authenticate(by_name(request.headers.raw), ingress.api_keys)
    check_scope(key, scope)
    return key


def is_job_id(ingress: Ingress, text: str) -> bool:
    """Whether a job of this partition can have this id."""
    match = _ID.fullmatch(text)
    return match is not None and match[1] == ingress.settings.partition


def checked(ingress: Ingress, job_id: str) -> str:
    """An id that can be one of ours: others could name other keys in Redis.  Raises ``NotFound``."""
    if not is_job_id(ingress, job_id):
        raise NotFound(f"No job with the id {job_id!r}.")
    return job_id
