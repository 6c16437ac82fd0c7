"""Rollouts in simulation, their statistics, videos and pictures; and recording demonstrations."""
