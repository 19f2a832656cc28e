"""``relay up``: the whole relay on one machine, from one command to one Ctrl-C.

Says which programs there are, what each may know, and in what order they start and stop; ``supervisor`` does the
keeping. It speaks to no Redis and serves nothing itself.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from relay import environment
from relay.core import api_key
from relay.local import embedded
from relay.local.banner import banner
from relay.local.data_dir import DataDir
from relay.local.leftovers import Record
from relay.local.supervisor import Child, Program, StartError, python, start_all, stop_all
from relay.provider import BASE_URLS
from relay.reference import SettingsError
from relay.settings import Settings

# Beyond the drain itself: time to tell clients, write the last records and close.
_STOP_MARGIN_S = 15.0

# How long the ingress may take from SIGTERM to a closed door before the workers are told as well.
_CLOSE_S = 2.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What ``relay up`` settles itself because the operator left it open."""

    redis_url: str
    port: int
    api_key: str
    sandbox_port: int
    sandbox_key: str
    console_port: int


def run(settings: Settings) -> None:
    """Run until SIGINT or SIGTERM. Raises ``SettingsError`` and ``StartError``."""
    settings.check_secrets()
    directory = DataDir(settings.data_dir)
    directory.open()
    record = Record(directory.path / "processes.json")
    for name in record.stop_leftovers():
        say("relay", f"stopped {name}, left running by an earlier relay up")
    try:
        asyncio.run(Up(settings, directory, record).run())
    finally:
        directory.forget_redis_url()


class Up:
    """One run of ``relay up``."""

    def __init__(self, settings: Settings, directory: DataDir, record: Record) -> None:
        self._settings = settings
        self._directory = directory
        self._record = record
        self._children: list[Child] = []
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._asked_to_stop)
        starting = asyncio.create_task(self._start())
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                say_plainly(starting.result())
                await stopping
        finally:
            starting.cancel()
            stopping.cancel()
            await asyncio.gather(starting, stopping, return_exceptions=True)
            await self._stop_in_order()

    def _asked_to_stop(self) -> None:
        if self._hurry.is_set():
            for child in self._children:
                child.kill()
        elif self._stop.is_set():
            say("relay", "hurrying")
            self._hurry.set()
        else:
            say("relay", "stopping; once more to hurry")
            self._stop.set()

    async def _start(self) -> str:
        """Start everything; answers what to print."""
        settings = self._settings
        server = None if "redis_url" in settings.model_fields_set else embedded.find(self._directory, say)
        plan = make_plan(settings, self._directory, server.url if server else settings.redis_url)
        if server:
            await self._start_redis(server)
        await self._add(programs(settings, plan, os.environ))
        dashboard = f"{base_url(settings.host, plan.console_port)}/dashboard"
        return banner(settings, base_url(settings.host, plan.port), plan.api_key, dashboard)

    async def _start_redis(self, server: embedded.Server) -> None:
        try:
            await self._add([server.program()])
        except StartError as error:
            raise StartError(f"{error}; {server.binary} wrote to {server.log}") from None
        # Only now: a command that finds the file finds a server.
        self._directory.write("redis-url", server.url)

    async def _add(self, group: list[Program]) -> None:
        children = [Child(program, say, self._record) for program in group]
        self._children += children
        await start_all(children)

    async def _stop_in_order(self) -> None:
        """Ingress first, so that nothing new comes in; workers while it still delivers; then what they need."""
        ingress, workers = self._named("ingress"), self._named("worker-")
        closing = asyncio.create_task(stop_all(ingress, self._hurry))
        for child in ingress:
            await self._door_closed(child, closing)
        await asyncio.gather(closing, stop_all(workers, self._hurry))
        # The ledger after the workers, so that their last records are in it.
        await stop_all([*self._named("ledger"), *self._named("sandbox"), *self._named("console")], self._hurry)
        await stop_all(self._named("redis"), asyncio.Event())  # never hurried: it is writing down what was promised

    async def _door_closed(self, child: Child, closing: asyncio.Task[None]) -> None:
        environ = child.program.environment
        host, port = reachable(environ["RELAY_HOST"]), int(environ["RELAY_PORT"])
        deadline = asyncio.get_running_loop().time() + _CLOSE_S
        while not (closing.done() or self._hurry.is_set()) and asyncio.get_running_loop().time() < deadline:
            if not await asyncio.to_thread(_listens, host, port):
                return
            await asyncio.sleep(0.05)

    def _named(self, prefix: str) -> list[Child]:
        return [child for child in self._children if child.program.name.startswith(prefix)]


def make_plan(settings: Settings, directory: DataDir, redis_url: str) -> Plan:
    """Settle what was left open. Raises ``SettingsError`` when the port is taken."""
    port = settings.port or embedded.free_port(settings.host)
    _check_free(settings.host, port, "RELAY_PORT")
    given = settings.api_key.get_secret_value() if settings.api_key else None
    chosen = settings.model_fields_set
    return Plan(
        redis_url=redis_url,
        port=port,
        api_key=given or directory.secret("api-key", _new_key),
        sandbox_port=settings.sandbox_port if "sandbox_port" in chosen else embedded.free_port("127.0.0.1"),
        sandbox_key=settings.sandbox_key.get_secret_value() if "sandbox_key" in chosen else secrets.token_hex(16),
        console_port=_console_port(settings, port),
    )


def _console_port(settings: Settings, port: int) -> int:
    """As chosen; else the port after the ingress', so that two relays on one machine do not meet at 8081."""
    if "console_port" in settings.model_fields_set and settings.console_port:
        _check_free(settings.host, settings.console_port, "RELAY_CONSOLE_PORT")
        return settings.console_port
    after = min(port + 1, 65_535)
    try:
        _check_free(settings.host, after, "")
    except SettingsError:
        return embedded.free_port(settings.host)
    return after


def programs(settings: Settings, plan: Plan, environ: Mapping[str, str]) -> list[Program]:
    """Everything but Redis. Each gets the secrets it needs and no others."""
    common = _without_secrets(settings, environ) | {
        "PYTHONUNBUFFERED": "1",
        "RELAY_REDIS_URL": plan.redis_url,
        "RELAY_HOST": settings.host,
        "RELAY_PORT": str(plan.port),
    }
    ingress = common | {"RELAY_API_KEY": plan.api_key}
    worker = common | {name: environ[name] for name in _provider_secrets(settings) if name in environ}
    stop_s = settings.drain_s + _STOP_MARGIN_S
    found = []
    if settings.sandbox:
        address = {"RELAY_SANDBOX_PORT": str(plan.sandbox_port), "RELAY_SANDBOX_KEY": plan.sandbox_key}
        worker |= address
        found.append(Program("sandbox", python("sandbox"), common | address))
    found += [Program(f"worker-{n}", python("work"), worker, stop_s) for n in range(1, settings.workers + 1)]
    found.append(Program("ledger", python("ledger"), common | _ledger_url(settings)))
    console = {"RELAY_CONSOLE_PORT": str(plan.console_port)}
    found.append(Program("console", python("console"), common | _ledger_url(settings) | console))
    return [*found, Program("ingress", python("serve"), ingress, stop_s)]


def _ledger_url(settings: Settings) -> dict[str, str]:
    return {environment.variable("ledger_url"): settings.ledger_url} if settings.ledger_url else {}


def _without_secrets(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment every child gets: ours, the settings in force as variables, and no secret."""
    ours = {environment.variable(name) for name in environment.SECRETS}
    hidden = ours | {f"{name}_FILE" for name in ours} | _provider_secrets(settings)
    kept = {name: value for name, value in environ.items() if name not in hidden}
    for name in settings.model_fields_set - environment.TABLES - environment.SECRETS:
        kept[environment.variable(name)] = str(getattr(settings, name))
    if not settings.sandbox:
        # Without its key a provider is still one, as long as its address is known.
        for name in BASE_URLS.keys() & settings.providers.keys():
            kept[environment.base_url_variable(name)] = settings.providers[name].base_url
    return kept


def _provider_secrets(settings: Settings) -> set[str]:
    """The variables that hold or lead to provider secrets."""
    named = {environment.key_variable(name) for name in BASE_URLS}
    named |= {f"{name}_FILE" for name in named}
    return named.union(*(provider.secret_variables for provider in settings.providers.values()))


def base_url(host: str, port: int) -> str:
    """Where a client on this machine finds us."""
    host = reachable(host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def reachable(host: str) -> str:
    """An address to connect to, where ``host`` is one to listen on."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _new_key() -> str:
    return api_key.make(secrets.token_bytes(api_key.ID_BYTES + api_key.SECRET_BYTES))


def _check_free(host: str, port: int, setting: str) -> None:
    """Better now, by name, than as an ingress that dies over and over."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise SettingsError(
            f"{setting}: cannot listen on {host} port {port}: {error.strerror}; choose another one"
        ) from None


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=0.5):
            return True
    except OSError:
        return False


def say(name: str, line: str) -> None:
    """One line, with the program it is about in front."""
    say_plainly(f"{name:>9} │ {line}")


def say_plainly(text: str) -> None:
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has gone (`relay up | head`); the relay itself is not to die of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
