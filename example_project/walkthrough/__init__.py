"""The parts of demo.py; using the outbox needs none of them."""
