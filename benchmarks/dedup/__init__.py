"""Benchmarks of dedup: how good the groups are, how fast pairs are found."""
