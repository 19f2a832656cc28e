"""Where the endpoints of the native surfaces answer, also without the version, which some clients have in their URL."""

from __future__ import annotations

from relay.core.body import Endpoint
from relay.core.job import Dialect

PATHS: dict[str, tuple[Dialect, Endpoint]] = {
    "/v1/messages": ("anthropic", "messages"),
    "/v1/messages/count_tokens": ("anthropic", "count_tokens"),
    "/v1/chat/completions": ("openai", "chat_completions"),
}
PATHS |= {path.removeprefix("/v1"): served for path, served in PATHS.items()}
