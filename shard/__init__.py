"""One shard: a durable store of templates and its search index. Synchronous and local: no network, no tenants, no images."""
