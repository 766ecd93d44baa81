"""Servers that the tests of each change do not run on: `python -m tests.matrix` does, and renews the README's table."""
