"""Speak the wire: turn requests and frames into calls of services, and what comes back into answers."""
