"""Each examination finds the real condition, and says nothing of a healthy installation."""
