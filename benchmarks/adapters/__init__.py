"""Facegrid in benchmarks of others: adapters to be copied into ann-benchmarks and VectorDBBench."""
