"""Dedup: every group of faces that are the same person, in one gallery or between two.

A job of kind `dedup` reads an immutable snapshot (`corpus.py`), joins all pairs of its parts in blocks (`plan.py`,
`blocks.py`, `pairs.py`), groups what it found and writes files that people can act on (`job.py` puts it together).
"""
