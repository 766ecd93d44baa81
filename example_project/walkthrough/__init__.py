"""The parts of demo.py; nothing in here is needed to use the outbox."""
