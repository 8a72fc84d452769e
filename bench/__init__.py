"""Measures the server beside its peers: one command, one machine, one PostgreSQL, several rounds interleaved."""
