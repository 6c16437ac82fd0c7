"""Recordings of other layouts and versions to robomimic's HDF5 layout, and back."""
