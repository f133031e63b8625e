"""The HTTP service under load, beside its peers, in one run: see docs/benchmarks.md.

Modules that a peer's process imports (`wrk`, `side`, `peers/`) need nothing but the standard library and NumPy.
"""
