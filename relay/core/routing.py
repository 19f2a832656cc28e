"""Which provider serves a model name: by alias, by ``provider/`` prefix, or by the names and globs providers list.

Pure and synchronous; built once from the settings, asked by the ingress for each request. It never guesses: a name
that nothing matches is a ``NotFound`` that says what there is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import translate
from typing import NamedTuple

from relay.core.errors import NotFound
from relay.core.job import Dialect, Target

# What a glob stands for in GET /v1/models, newest first. From the model lists of the official Python SDKs
# (anthropic 2.12, openai 3.54) as of 2026-11; dated snapshots and retired names are left out. A name that is missing
# here still routes: this list is for reading only.
KNOWN_MODELS: dict[Dialect, tuple[str, ...]] = {
    "anthropic": (
        "claude-fable-5-2",
        "claude-mythos-5-2",
        "claude-opus-5-5",
        "claude-sonnet-5-5",
        "claude-haiku-5-5",
        "claude-opus-5",
        "claude-sonnet-5",
        "claude-opus-4-8",
        "claude-sonnet-4-6",
        "claude-haiku-4-5",
    ),
    "openai": ("gpt-6.2-sol", "gpt-6.1-sol", "gpt-6.1-terra", "gpt-6-sol", "gpt-6-luna", "gpt-5.5", "gpt-5.4", "gpt-5"),
}

# Enough to see a typing error by, short enough for one line.
_NAMED_IN_ERROR = 8


class Served(NamedTuple):
    """What a provider offers. ``any_prefixed``: its list is only a default, so ``provider/anything`` goes through."""

    dialect: Dialect
    models: tuple[str, ...]
    any_prefixed: bool = False


class Listed(NamedTuple):
    """One line of GET /v1/models. ``provider`` is the first one that would be asked."""

    id: str
    provider: str
    dialect: Dialect


class _Pattern(NamedTuple):
    text: str
    matches: re.Pattern[str]
    target: Target

    @property
    def exactness(self) -> tuple[bool, int]:
        """A full name beats any glob; a longer glob beats a shorter one."""
        return (not _is_glob(self.text), len(re.sub(r"[*?]", "", self.text)))


class Router:
    """Resolves model names. ``aliases`` map a name to ``provider/model`` targets, in the order they are to be tried."""

    def __init__(self, providers: Mapping[str, Served], aliases: Mapping[str, Sequence[str]] | None = None) -> None:
        self._providers = {name: Served(*served) for name, served in providers.items()}
        self._patterns = sorted(self._compile(), key=lambda pattern: pattern.exactness, reverse=True)
        self._aliases = {alias: self._alias(alias, targets) for alias, targets in (aliases or {}).items()}

    def resolve(self, model: str) -> tuple[Target, ...]:
        """The targets to try, in order: several only for an alias. Raises ``NotFound``."""
        if targets := self._aliases.get(model):
            return targets
        target = self._prefixed(model) or self._bare(model)
        if target is None:
            raise NotFound(self._unknown(model), param="model")
        return (target,)

    def models(self) -> tuple[Listed, ...]:
        """Every name worth listing: aliases, configured names, and the known models a glob covers."""
        listed = {
            alias: Listed(alias, targets[0].provider, targets[0].dialect) for alias, targets in self._aliases.items()
        }
        for name, served in self._providers.items():
            for model in _expand(served):
                listed.setdefault(model, Listed(model, name, served.dialect))
        return tuple(listed.values())

    def _compile(self) -> Iterator[_Pattern]:
        for name, served in self._providers.items():
            for text in served.models:
                yield _Pattern(text, re.compile(translate(text)), Target(name, served.dialect, ""))

    def _alias(self, alias: str, targets: Sequence[str]) -> tuple[Target, ...]:
        found = []
        for text in targets:
            target = self._prefixed(text)
            if target is None:
                raise ValueError(f"alias {alias!r}: {text!r} is not a provider/model of a configured provider")
            found.append(target)
        if not found:
            raise ValueError(f"alias {alias!r} has no target")
        return tuple(found)

    def _prefixed(self, model: str) -> Target | None:
        """``provider/model``, if there is such a provider: model names may contain slashes themselves."""
        name, slash, rest = model.partition("/")
        served = self._providers.get(name)
        if not slash or not rest or served is None:
            return None
        if served.any_prefixed or any(p.target.provider == name and p.matches.match(rest) for p in self._patterns):
            return Target(name, served.dialect, rest)
        return None

    def _bare(self, model: str) -> Target | None:
        for pattern in self._patterns:
            if pattern.matches.match(model):
                return Target(pattern.target.provider, pattern.target.dialect, model)
        return None

    def _unknown(self, model: str) -> str:
        names = [*self._aliases, *dict.fromkeys(text for served in self._providers.values() for text in served.models)]
        shown = ", ".join(names[:_NAMED_IN_ERROR]) + (", …" if len(names) > _NAMED_IN_ERROR else "")
        return f"model {model[:100]!r} is not served here; there is {shown or 'no model at all'}"


def _expand(served: Served) -> list[str]:
    """Names as they are, globs as the known models they cover."""
    names: list[str] = []
    for text in served.models:
        if _is_glob(text):
            matches = re.compile(translate(text)).match
            names += [model for model in KNOWN_MODELS[served.dialect] if matches(model)]
        else:
            names.append(text)
    return names


def _is_glob(text: str) -> bool:
    return any(sign in text for sign in "*?[")
