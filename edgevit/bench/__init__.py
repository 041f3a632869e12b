"""Measuring on a board: how it is reached, what runs there, what is restored afterwards."""
