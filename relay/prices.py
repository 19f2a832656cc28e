"""The operator's own prices, from the file that ``RELAY_PRICES`` names: for the ledger, and for workers whose calls are
under a budget in money. It must not import ``relay.core.pricing``, which takes half a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from relay.core.pricing_overrides import Override, parse
from relay.reference import SettingsError


def own_prices(path: Path | None) -> Sequence[Override]:
    """Raises ``SettingsError``."""
    if path is None:
        return ()
    try:
        return parse(path.read_text())
    except OSError as error:
        raise SettingsError(f"RELAY_PRICES: cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise SettingsError(f"RELAY_PRICES: {path} {error}") from None
