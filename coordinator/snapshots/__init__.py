"""Snapshots of galleries: a store of immutable objects and manifests, and what makes, reads and restores them."""
