"""How the command line talks to an ingress: with the standard library, the operator's key and few words.

Over HTTP and not to Redis, so that an operator may do what the key's tenant may do, on any relay they can reach.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlencode, urlsplit

from relay.core.errors import InvalidRequest, NotFound, Unauthenticated, Unavailable, from_code
from relay.local.data_dir import DataDir
from relay.settings import Settings

# What a command needs to find its relay.
FLAGS = ("host", "port", "data_dir", "log_level")

# An ingress says something every 10 s at least while a job runs.
TIMEOUT_S = 30.0

Query = Mapping[str, str | int | Sequence[str]]


class Door:
    """One relay, from outside."""

    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidRequest(f"--url: {url!r} is not of the form http://host:port")
        self._url = url
        self._where = parts.netloc.rpartition("@")[2]
        self._connect = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._path = parts.path.rstrip("/")
        self._auth = {"x-api-key": key}

    @classmethod
    def of(cls, settings: Settings, url: str | None) -> Door:
        """The relay at ``url``, else the configured one.  The key is the configured one, or that of ``relay up``."""
        given = settings.api_key.get_secret_value() if settings.api_key else ""
        key = given or DataDir(settings.data_dir).api_key
        if not key:
            raise Unauthenticated("no API key: set RELAY_API_KEY, or --data-dir to that of a `relay up`")
        from relay.local.up import base_url

        return cls(url or base_url(settings.host, settings.port), key)

    def ask(self, method: str, path: str, query: Query | None = None) -> Any:
        """The JSON of an answer.  Raises the ``RelayError`` that the relay answers with, and ``Unavailable``."""
        with self._open(method, path, query, {}) as answer:
            return json.loads(answer.read())

    def look(self, path: str, header: str) -> tuple[Any, str]:
        """The JSON of an answer, and one of its headers."""
        with self._open("GET", path, None, {}) as answer:
            return json.loads(answer.read()), answer.getheader(header, "")

    def events(self, path: str, last_id: str = "") -> Iterator[tuple[str, str, str]]:
        """Id, name and data of each event of a stream, until it ends."""
        headers = {"last-event-id": last_id} if last_id else {}
        with self._open("GET", path, None, headers) as answer:
            name, data = "", []
            for raw in answer:
                field, _, value = raw.decode().rstrip("\r\n").partition(":")
                match field:
                    case "id":
                        last_id = value.strip()
                    case "event":
                        name = value.strip()
                    case "data":
                        data.append(value.removeprefix(" "))
                    case "" if not value and data:
                        yield last_id, name, "\n".join(data)
                        name, data = "", []

    @contextmanager
    def _open(self, method: str, path: str, query: Query | None, headers: dict[str, str]) -> Iterator[HTTPResponse]:
        target = f"{self._path}{path}" + (f"?{urlencode(query, doseq=True)}" if query else "")
        connection = self._connect(self._where, timeout=TIMEOUT_S)
        try:
            connection.request(method, target, headers=self._auth | headers)
            answer = connection.getresponse()
            if answer.status >= 300:
                raise _refusal(answer)
            yield answer
        except (OSError, HTTPException, json.JSONDecodeError) as error:
            raise Unavailable(f"no relay answers at {self._url}: {error or type(error).__name__}") from error
        finally:
            connection.close()


def _refusal(answer: HTTPResponse) -> Exception:
    """The error of a problem document, or of a provider's form."""
    body = answer.read()
    try:
        problem = json.loads(body)
        if error := problem.get("error"):
            return NotFound(error["message"]) if answer.status == NotFound.status else Unavailable(error["message"])
        return from_code(problem["code"], problem["detail"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return Unavailable(f"the answer was {answer.status} and no relay's")
