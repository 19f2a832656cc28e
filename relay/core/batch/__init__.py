"""Batches, as the two providers have them: what comes in, what its items mean, and the lines that go out.

``parts`` cuts an upload into items while it arrives, ``items`` checks one of them, ``lines`` writes its result.
"""
