"""Peers of the service, each a program that runs in a virtual environment of its own: see `catalogue.py`."""
