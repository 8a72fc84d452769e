"""The load generator: a process of its own, raw sockets on epoll, WebSocket frames made by hand."""
