"""Executors and process groups."""
