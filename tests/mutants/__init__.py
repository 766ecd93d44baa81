"""Faults that would break a guarantee, and the tests that must notice each: ``python -m tests.mutants``."""
