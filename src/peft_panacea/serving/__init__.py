"""Preferences for each request of a server."""
