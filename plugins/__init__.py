"""Plugins that quire ships."""
