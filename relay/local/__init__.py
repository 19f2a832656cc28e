"""``relay up``: the whole relay on one machine. It starts the other processes and shares no code path with them."""
