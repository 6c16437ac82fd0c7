"""Sweeps: tasks × methods × seeds, from demonstrations to a comparison, resumed where they stopped."""
