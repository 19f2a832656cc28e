"""A local stand-in for Anthropic and OpenAI: both wire formats, a real prefix cache, and every misbehaviour on request.

It never calls a model and never leaves the machine.  Reading order: ``dialect.py`` (what is passed around), ``app.py``
(what one call does), ``cache.py``, ``faults.py``.  It shares no code with the relay's own readers and checks: a
provider made of our own assumptions would agree with our mistakes.
"""
