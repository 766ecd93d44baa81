"""Relay and consumer as real processes that record each call of database and broker, or kill themselves at one."""
