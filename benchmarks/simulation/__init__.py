"""Facegrid on a thousand hosts, in virtual time: discrete events over the product's own decisions and measured costs.

What decides is imported from `coordinator` (placement, choice of replicas, hedging, health); what takes time is drawn
from costs that were measured (`measure.py`, `benchmarks/results/`). Seeded: the same options give the same figures.
"""
