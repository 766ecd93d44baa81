"""How fast the outbox is, beside raw loops that do the same work: ``python -m benchmarks``."""
