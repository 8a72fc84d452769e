"""Checks a whole server from outside, as its users see it, and reports to a person. Imports nothing of the server."""
