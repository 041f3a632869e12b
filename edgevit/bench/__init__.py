"""Measuring on a board: how it is reached, what runs there, what is put right afterwards."""
