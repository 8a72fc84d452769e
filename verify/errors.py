"""What is wrong is told, named and survived."""

import uuid
from typing import Any

from verify.checks import Area, Found, expect
from verify.client import Socket
from verify.world import World

area = Area("Error handling")


async def _error(socket: Socket, code: str) -> dict[str, Any]:
    """Return the next error, which has to have this code; the socket has to live on."""
    error = await socket.get("error")
    expect(error["code"] == code, f"{error['code']} instead of {code}")
    await socket.send("ping", ts="alive")
    await socket.get("pong", ts="alive")
    return error


@area.check("What is no JSON is told, and the socket lives")
async def no_json(world: World) -> Found:
    """INVALID_JSON on both sockets."""
    for socket in (await world.events(), await world.messages(world.alice)):
        await socket.raw("{")
        await _error(socket, "INVALID_JSON")
    return "INVALID_JSON"


@area.check("An unknown type is told")
async def unknown_type(world: World) -> Found:
    """UNKNOWN_TYPE, with what it was."""
    socket = await world.messages(world.alice)
    await socket.send("dance")
    error = await _error(socket, "UNKNOWN_TYPE")
    expect(error.get("requestType") == "dance", "it does not say which")
    return "UNKNOWN_TYPE"


@area.check("A missing field is named")
async def missing_field(world: World) -> Found:
    """INVALID_FRAME."""
    socket = await world.messages(world.alice)
    await socket.send("message.send", text="x", clientMessageId="k")
    error = await _error(socket, "INVALID_FRAME")
    expect("conversationId" in error["message"], f"it says {error['message']!r}")
    return str(error["message"])


@area.check("An empty text is refused")
async def empty_text(world: World) -> Found:
    """INVALID_TEXT, with the message's key."""
    conversation, socket = await world.conversation(), await world.messages(world.alice)
    await socket.send("message.send", conversationId=conversation, text=" ", clientMessageId="empty")
    error = await _error(socket, "INVALID_TEXT")
    expect(error.get("clientMessageId") == "empty", "it does not say of which message")
    return "INVALID_TEXT"


@area.check("A message that answers one that is not there is refused")
async def unknown_message(world: World) -> Found:
    """UNKNOWN_MESSAGE."""
    conversation, socket = await world.conversation(), await world.messages(world.alice)
    key, strange = uuid.uuid4().hex, str(uuid.uuid4())
    answer = await socket.write(conversationId=conversation, text="x", clientMessageId=key, replyTo=strange)
    expect(answer.get("code") == "UNKNOWN_MESSAGE", f"{answer.get('code', answer['type'])} instead of UNKNOWN_MESSAGE")
    return "UNKNOWN_MESSAGE"


@area.check("A wrong body is a 400 that names the field")
async def wrong_body(world: World) -> Found:
    """With a code for programs and the request's id."""
    answer = await world.call("POST", "/api/conversations", {"participantIds": 7}, world.alice)
    expect(answer.status == 400, f"{answer.status} {answer.text[:120]}")
    expect(answer.body["code"] == "INVALID_REQUEST" and "participantIds" in answer.body["message"], answer.text[:120])
    expect(answer.body["requestId"] == answer.headers.get("X-Request-Id"), "the request's id is another one")
    return str(answer.body["message"])


@area.check("Nothing at an address is a 404 in JSON")
async def nothing_there(world: World) -> Found:
    """And a wrong method a 405 that says which are right."""
    lost = await world.call("GET", "/nowhere")
    expect(lost.status == 404 and lost.body["code"] == "NOT_FOUND", f"{lost.status} {lost.text[:80]}")
    wrong = await world.call("DELETE", "/health")
    expect(wrong.status == 405 and "GET" in wrong.headers.get("Allow", ""), f"DELETE /health gave {wrong.status}")
    return "404, 405"


@area.check("A frame that is too large closes with 1009")
async def too_large(world: World) -> Found:
    """Larger than any sensible MAX_FRAME_BYTES."""
    socket = await world.events()
    await socket.raw("x" * (2 * 1024 * 1024))
    code = await socket.closed()
    expect(code == 1009, f"closed with {code}")
    return "close 1009"


@area.check("More bad frames than a client makes by mistake close with 4400")
async def bad_frames(world: World) -> Found:
    """After 20 in 10 s."""
    socket = await world.events()
    for _ in range(25):
        await socket.raw("{")
    code = await socket.closed()
    expect(code == 4400, f"closed with {code}")
    return "close 4400"


@area.check("Who writes too fast is told when to go on")
async def rate_limit(world: World) -> Found:
    """RATE_LIMITED with ``retryAfterMs``, and the socket lives."""
    conversation, socket = await world.conversation(), await world.messages(world.bob)
    for number in range(50):
        key = f"fast-{uuid.uuid4().hex}"
        await socket.send("message.send", conversationId=conversation, text=str(number), clientMessageId=key)
        answer = await socket.get("message.ack", "error")
        if answer["type"] == "error":
            expect(answer["code"] == "RATE_LIMITED" and answer.get("retryAfterMs"), f"{answer}")
            return f"after {number} at once"
    return "50 at once were taken: no limit is set, or a high one"
