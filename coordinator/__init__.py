"""Many shards as one gallery: catalog, placement, routing, merge, training, and the runtimes that hold shard hosts."""
