"""A project with a user model and an admin site of its own."""
