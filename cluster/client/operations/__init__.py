"""The verbs, each written once: generators of calls (`cluster.client.call`) that check, ask, and decode."""
