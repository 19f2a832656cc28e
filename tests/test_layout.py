"""The arrows between packages, and who may talk to what, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(path for top in ("relay", "workers") for path in (ROOT / top).rglob("*.py"))

# What a package may import of ours besides itself. Wiring is for the edges, not for broker and core.
_WIRING = (
    *("child", "histogram", "http_metrics", "prices", "problems", "process", "provider", "reference", "serving"),
    *("settings", "telemetry"),
)
WIRING = {f"relay.{name}" for name in _WIRING}
ARROWS: dict[str, set[str]] = {
    "relay.core": set(),
    "relay.broker": {"relay.core"},
    "relay.ingress": {"relay.core", "relay.broker"} | WIRING,
    "relay.ledger": {"relay.core", "relay.broker"} | WIRING,
    "relay.console": {"relay.core", "relay.broker", "relay.ledger"} | WIRING,
    "relay.sandbox": {"relay.core"} | WIRING,
    "workers": {"relay.core", "relay.broker"} | WIRING,
}
PACKAGES = tuple(ARROWS)

# Who may import a library that others reach only through them.
KEEPERS: dict[str, tuple[str, ...]] = {
    "redis": ("relay.broker", "workers.worker"),
    "rq": ("relay.broker", "workers.worker"),
    "httpx": ("workers.upstream",),
    "httpx_aiohttp": ("workers.upstream",),
    "aiohttp": ("workers.upstream", "workers.webhook_post"),
    "standardwebhooks": ("relay.core.webhook",),
    "sqlalchemy": ("relay.ledger",),
    "alembic": ("relay.ledger",),
    "psycopg": ("relay.ledger",),
    "genai_prices": ("relay.core.pricing",),
    "opentelemetry": ("relay.telemetry", "relay.ingress.tracing", "workers.tracing"),
    "anthropic": (),
    "openai": (),
    "pickle": (),
}
NOT_IN_CORE = {"redis", "rq", "httpx", "asyncio", "aiohttp", "socket", "subprocess", "os", "time", "random", "secrets"}


class Import(NamedTuple):
    module: str  # who imports
    name: str  # what
    line: int

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.name}"


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def imports_of(path: Path) -> Iterator[Import]:
    """Every import, inside functions too; ``from a import b`` counts as ``a.b``, which may be a module."""
    module = module_of(path)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (Import(module, alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (Import(module, f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


IMPORTS = [found for path in FILES for found in imports_of(path)]


def test_there_is_something_to_check() -> None:
    assert len(FILES) > 20
    assert any(is_in(found.module, "workers") and is_in(found.name, "relay.broker") for found in IMPORTS)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_its_arrows_point_to(package: str) -> None:
    ours = [
        found for found in IMPORTS if is_in(found.module, package) and found.name.split(".")[0] in ("relay", "workers")
    ]
    allowed = {package} | ARROWS[package]
    wrong = [str(found) for found in ours if not any(is_in(found.name, target) for target in allowed)]
    assert not wrong


@pytest.mark.parametrize("library", KEEPERS)
def test_a_library_is_imported_by_its_keepers_only(library: str) -> None:
    found = [found for found in IMPORTS if is_in(found.name, library)]
    assert not [str(one) for one in found if not any(is_in(one.module, keeper) for keeper in KEEPERS[library])]


def test_the_core_does_no_io_and_reads_no_clock() -> None:
    found = [found for found in IMPORTS if is_in(found.module, "relay.core")]
    assert not [str(one) for one in found if one.name.split(".")[0] in NOT_IN_CORE]


def test_redis_clients_are_built_in_one_place() -> None:
    """redis-py repeats commands by default, and a repeated write is a duplicate."""
    built = []
    for path in FILES:
        module = module_of(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and builds_a_client(node.func):
                built.append(f"{module}:{node.lineno}")
    assert built
    assert not [place for place in built if not place.startswith("relay.broker.connections:")]


def builds_a_client(function: ast.expr) -> bool:
    names = {"Redis", "StrictRedis", "RedisCluster", "Sentinel", "ConnectionPool", "BlockingConnectionPool", "from_url"}
    names |= {"UnixDomainSocketConnection", "SSLConnection", "Connection"}
    if isinstance(function, ast.Attribute):
        return function.attr in names or builds_a_client(function.value)
    return isinstance(function, ast.Name) and function.id in names
