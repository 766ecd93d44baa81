"""Examinations of an installation: each finds one kind of trouble, and says what mends it. None changes anything."""
