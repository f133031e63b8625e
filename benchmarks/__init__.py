"""Benchmarks and what they run on: synthetic galleries calibrated to real faces, peers, the demo.

Nothing in the product imports this package; it may import every layer. Figures that the docs quote come from here.
"""
