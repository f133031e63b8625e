"""ann_benchmarks/algorithms/facegrid/: `module.py` and `config.yml`. How to use them: README.md beside them."""
