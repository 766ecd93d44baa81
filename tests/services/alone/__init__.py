"""Tests that run one after the other, with nothing beside them.

They hold workers to promised durations, take the shared database server down or change its settings, or start a cluster.
"""
