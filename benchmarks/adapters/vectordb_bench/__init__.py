"""vectordb_bench/backend/clients/facegrid/: `facegrid.py` and `config.py`. How to use them: README.md beside them."""
