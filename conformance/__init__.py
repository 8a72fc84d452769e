"""WebSocket conformance: RFC 6455 against an echo socket on the server's own base class. Not part of the server."""
