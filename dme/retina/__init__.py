"""Anatomy as numbers: NumPy arrays in, NumPy arrays out."""
