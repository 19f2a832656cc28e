"""Logging of every process: structlog on standard error, one line an event, no secret in it.

Called once by the command that starts a process. Records of libraries (uvicorn, rq, redis) take the same way.
"""

from __future__ import annotations

import logging
import re
import sys

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

# Our own keys, those of the providers, bearer tokens, and passwords in URLs. The last four characters of a key are
# kept: they tell which one it was.
_SECRETS = re.compile(
    r"(?P<kind>\b(?:rk_|sk-|Bearer\s+))[\w.-]{4,}(?P<last>[\w-]{4})|(?P<scheme>\b[a-z+]+://[^\s/:@]*:)[^\s/@]+@"
)

_LOGFMT = structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], drop_missing=True)


def configure(level: str) -> None:
    """Set up logging for this process at ``level`` and above."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Tracebacks become text before the scrubber, so that it sees what an exception quotes.
    render: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        scrub,
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else _LOGFMT,
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=render))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # Their starts and stops are said by our own ready lines and exit codes.
    for library in ("uvicorn", "alembic"):
        logging.getLogger(library).setLevel(max(logging.WARNING, logging.getLogger().level))
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def scrub(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Take secrets out of every text of an event."""
    return {name: scrubbed(value) if isinstance(value, str) else value for name, value in event.items()}


def scrubbed(text: str) -> str:
    """The text with everything that looks like a secret shortened."""
    return _SECRETS.sub(_shorten, text)


def _shorten(found: re.Match[str]) -> str:
    return f"{found['scheme']}…@" if found["scheme"] else f"{found['kind']}…{found['last']}"
