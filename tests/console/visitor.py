"""Somebody with a browser that has no scripts: keeps the cookie, reads forms, sends them as a browser would."""

from __future__ import annotations

import re
from urllib.parse import urlencode

from tests.support import http


class Visitor:
    def __init__(self, port: int) -> None:
        self.port = port
        self.cookie = ""
        self._host = f"127.0.0.1:{port}"

    async def get(self, path: str) -> http.Response:
        return await http.request(self.port, "GET", f"/dashboard{path}", self._headers())

    async def post(
        self,
        path: str,
        fields: dict[str, str | list[str]],
        *,
        origin: str | None = None,
        headers: tuple[str, str] = ("", ""),
    ) -> http.Response:
        """Send a form; it comes from our own page unless another ``origin`` is named ('' for none)."""
        origin = f"http://{self._host}" if origin is None else origin
        lines = [*self._headers(), ("content-type", "application/x-www-form-urlencoded")]
        lines += [("origin", origin)] if origin else []
        lines += [headers] if headers[0] else []
        body = urlencode(fields, doseq=True).encode()
        answer = await http.request(self.port, "POST", f"/dashboard{path}", lines, body)
        if cookie := answer.headers.get("set-cookie"):
            self.cookie = cookie.partition(";")[0]
        return answer

    async def login(self, key: str) -> http.Response:
        answer = await self.post("/login", {"key": key, "next": "/dashboard"})
        assert answer.status == 303, answer
        return answer

    async def token(self) -> str:
        """What the forms of this session bring back."""
        found = re.search(rb'name="token" value="([^"]+)"', (await self.get("")).body)
        assert found
        return found[1].decode()

    def _headers(self) -> list[tuple[str, str]]:
        return [("host", self._host), *([("cookie", self.cookie)] if self.cookie else [])]
