"""One shard: a durable store of templates and its index. Synchronous and local: no network, no tenants, no images."""
