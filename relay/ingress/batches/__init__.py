"""Batches of both providers' shapes, and the files that OpenAI's come in."""
