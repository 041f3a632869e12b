"""Boards and what they can do: the built-in profiles and the user's own."""
