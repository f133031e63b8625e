"""The engine benchmark: Facegrid and its peers in one run, on the same data, each tuned to the recall stated.

`python -m benchmarks.engine`, `make bench-engine` or `facegrid bench engine`. The parent process makes the data and the
exact answers, decides settings and computes every figure (`run`); each peer lives in processes of its own (`worker`),
which build, open, search and report what they measured. docs/benchmarks.md tells how each peer is configured and why.
"""
