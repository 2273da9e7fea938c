"""Mutated requests by the thousand: `python -m tests.fuzz` says what is sent, and what must hold.

Nothing here knows what the right answer to a mutated request would be. What is checked is what must hold of
every answer (`checks`), and of the service when all are through (`run`).
"""
