"""Modules that model families share."""
