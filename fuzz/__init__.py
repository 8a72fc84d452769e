"""Broken and hostile inputs against the frame decoder and a real server process. Not part of the server."""
