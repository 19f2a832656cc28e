"""``python -m relay``, for where no ``relay`` is on PATH."""

from relay.cli import main

main()
