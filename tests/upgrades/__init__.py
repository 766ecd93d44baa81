"""Databases and records of released versions, and how those of the next one are recorded."""
