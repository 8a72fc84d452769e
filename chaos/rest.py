"""REST calls of the run's people, each recorded with how it ended."""

import json
from typing import Any

from msgspec import Struct
from tornado.httpclient import AsyncHTTPClient, HTTPError

from chaos.record import CALL, Record
from chaos.server_process import ServerProcess

_TIMEOUT_S = 8.0


class Answer(Struct):
    """``status`` 0: nobody knows whether the call was acted on."""

    status: int
    body: Any = None

    @property
    def retry_after_s(self) -> float:
        """How long to wait before asking again."""
        return 1.0


class Rest:
    """Makes calls and records them."""

    def __init__(self, server: ServerProcess, record: Record) -> None:
        self._server = server
        self._record = record
        self._http = AsyncHTTPClient(force_instance=True, max_clients=100)

    async def call(
        self, user_id: str, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Make a call as ``user_id``. Never raises; a call that came to nothing has status 0."""
        given = {"Authorization": f"Bearer {self._server.token(user_id)}", "Content-Type": "application/json"}
        sent = None if body is None else json.dumps(body).encode()
        started = len(self._record.entries)
        try:
            response = await self._http.fetch(
                f"http://127.0.0.1:{self._server.port}{path}",
                method=method,
                headers={**given, **(headers or {})},
                body=sent,
                raise_error=False,
                request_timeout=_TIMEOUT_S,
                connect_timeout=2.0,
            )
            answer = Answer(response.code, json.loads(response.body) if response.body else None)
            if response.code == 599:
                answer = Answer(0)
        except (HTTPError, OSError, ValueError):
            answer = Answer(0)
        self._record.add(
            CALL,
            user_id,
            0,
            # `began`: the record's entry before which the call had not begun.
            {"began": started, "method": method, "path": path, "sent": body, "status": answer.status,
             "body": answer.body if method == "POST" or answer.status >= 400 else _cursors(answer.body)},
        )  # fmt: skip
        return answer

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()


def _cursors(body: Any) -> Any:
    """Keep of a list of conversations what the checker reads, of a page of messages its places."""
    if isinstance(body, dict) and "conversations" in body:
        kept = ("id", "deliveredSeq", "readSeq", "lastSeq")
        return {"conversations": [{name: one[name] for name in kept} for one in body["conversations"]]}
    if isinstance(body, dict) and "messages" in body:
        places = ("id", "conversationId", "senderId", "text", "seq")
        return {"messages": [{name: one[name] for name in places} for one in body["messages"]]}
    return body
