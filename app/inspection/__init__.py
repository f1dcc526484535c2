"""Inspections: what the network computes inside, found out by a process of its own beside the engine."""
