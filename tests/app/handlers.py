"""Handlers of the tests; most tests register their own in a registry of their own."""
