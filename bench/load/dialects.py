"""How each kind of server is spoken to: the same things said in plain JSON frames and in Socket.IO's packets."""

import json

from bench.load import frames

# What a server's answer holds once a connection is of use.
EVENTS_READY = b'"connection"'
MESSAGES_READY = b'"connected"'
EVENT = b'"bounty.status"'


class Plain:
    """One JSON object a frame, as in PROTOCOL.md."""

    def __init__(self, port: int) -> None:
        self.port = port

    def events(self) -> tuple[bytes, bytes | None]:
        """Return the request that opens an event stream, and what is sent after the handshake."""
        return frames.upgrade(self.port, "/events/subscribe"), None

    def messages(self, token: str) -> tuple[bytes, bytes | None]:
        """Return the same for messaging, authenticated."""
        return frames.upgrade(self.port, f"/messages/subscribe?token={token}"), None

    def send(self, conversation_id: str, text: str, key: str) -> bytes:
        """Return the frame that sends a chat message."""
        return frames.text(
            json.dumps(
                {"type": "message.send", "conversationId": conversation_id, "text": text, "clientMessageId": key}
            ).encode()
        )

    def send_rest(self, conversation_id: str, token: str, text: str, key: str) -> bytes:
        """Return the REST call that sends a chat message."""
        body = json.dumps({"text": text, "clientMessageId": key}).encode()
        return frames.post(self.port, f"/api/conversations/{conversation_id}/messages", token, body)

    def publish(self, bounty_id: str, status: str) -> bytes:
        """Return the frame that has a peer publish an event."""
        return frames.text(json.dumps({"type": "publish", "id": bounty_id, "status": status}).encode())


class SocketIo(Plain):
    """Engine.IO 4 over WebSocket alone; the event stream is a namespace."""

    def events(self) -> tuple[bytes, bytes | None]:
        """Return the request, and the packet that connects to the namespace."""
        return self._upgrade(), frames.text(b"40/events,")

    def messages(self, token: str) -> tuple[bytes, bytes | None]:
        """Return the request, and the packet that connects with ``auth``."""
        return self._upgrade(), frames.text(b"40" + json.dumps({"token": token}).encode())

    def send(self, conversation_id: str, text: str, key: str) -> bytes:
        """Return the packet of an event with one argument."""
        value = {"conversationId": conversation_id, "text": text, "clientMessageId": key}
        return frames.text(b"42" + json.dumps(["message.send", value]).encode())

    def publish(self, bounty_id: str, status: str) -> bytes:
        """Return the packet of an event in the namespace."""
        return frames.text(b"42/events," + json.dumps(["publish", {"id": bounty_id, "status": status}]).encode())

    def _upgrade(self) -> bytes:
        return frames.upgrade(self.port, "/socket.io/?EIO=4&transport=websocket")


DIALECTS: dict[str, type[Plain]] = {"plain": Plain, "socketio": SocketIo}
