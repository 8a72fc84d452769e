"""Messages and events: stored, told once, in order, with what goes with them."""

import asyncio
import uuid
from typing import Any

from verify.checks import Area, Found, expect
from verify.client import Socket
from verify.world import World

area = Area("Delivery")


async def say(socket: Socket, conversation: str, text: str, key: str | None = None) -> dict[str, Any]:
    """Send a message and return its ack; past the rate limit, in time."""
    answer = await socket.write(conversationId=conversation, text=text, clientMessageId=key or uuid.uuid4().hex)
    expect(answer["type"] == "message.ack", f"{answer.get('code')}: {answer.get('message')}")
    return answer


@area.check("A message is acked, and reaches the other person as it was written")
async def message(world: World) -> Found:
    """``message.ack`` and ``message.new``, with the same id and ``seq``."""
    conversation = await world.conversation()
    sender, receiver = await world.messages(world.alice), await world.messages(world.bob)
    text = "Ist die Katze zurück? 🐈 \u202eok"
    ack = await say(sender, conversation, text)
    new = await receiver.get("message.new", messageId=ack["messageId"])
    expect(new["text"] == text, "the text has changed")
    expect(new["seq"] == ack["seq"] and new["senderId"] == world.alice.id, "it has another seq or sender")
    return f"seq {ack['seq']}"


@area.check("It is stored by then")
async def stored(world: World) -> Found:
    """What was acked is in the history at once."""
    conversation = await world.conversation()
    ack = await say(await world.messages(world.alice), conversation, "stored?")
    path = f"/api/conversations/{conversation}/messages?limit=1"
    [newest] = (await world.call("GET", path, person=world.bob)).body["messages"]
    expect(newest["id"] == ack["messageId"], "the history's newest message is another one")
    return "in the history"


@area.check("The same message sent twice is one")
async def once(world: World) -> Found:
    """The second ack says ``duplicate``, and nobody hears of it again, over REST neither."""
    conversation, key = await world.conversation(), uuid.uuid4().hex
    sender, receiver = await world.messages(world.alice), await world.messages(world.bob)
    first = await say(sender, conversation, "once", key)
    again = await say(sender, conversation, "once", key)
    expect(again.get("duplicate") and again["messageId"] == first["messageId"], "it was stored twice")
    body = {"text": "once", "clientMessageId": key}
    rest = await world.call("POST", f"/api/conversations/{conversation}/messages", body, world.alice)
    expect(rest.body["message"]["id"] == first["messageId"], "it was stored again over REST")
    heard = [frame for frame in await receiver.flush() if frame["type"] == "message.new"]
    expect(len(heard) == 1, f"the other person heard it {len(heard)} times")
    return "one message, told once"


@area.check("Messages arrive in order, without a gap")
async def order(world: World) -> Found:
    """``seq`` rises by one, whoever writes."""
    conversation, count = await world.conversation(), 4 if world.quick else 10
    sockets = [await world.messages(world.alice), await world.messages(world.bob)]
    reader = await world.messages(world.bob)
    await asyncio.gather(*(_several(socket, conversation, count) for socket in sockets))
    seqs = [(await reader.get("message.new"))["seq"] for _ in range(2 * count)]
    expect(seqs == list(range(seqs[0], seqs[0] + 2 * count)), f"they came as {seqs}")
    return f"{2 * count} of two people at once"


async def _several(socket: Socket, conversation: str, count: int) -> None:
    for number in range(count):
        await say(socket, conversation, f"number {number}")


@area.check("Delivered and read reach the sender, and stand in REST")
async def receipts(world: World) -> Found:
    """Both receipts, and the message's ``status``."""
    conversation = await world.conversation()
    sender, receiver = await world.messages(world.alice), await world.messages(world.bob)
    ack = await say(sender, conversation, "read me")
    for kind in ("delivered", "read"):
        await receiver.send(f"message.{kind}", conversationId=conversation, seq=ack["seq"])
        receipt = await sender.get(f"message.{kind}", messageId=ack["messageId"])
        expect(receipt["userId"] == world.bob.id, "it is somebody else's receipt")
    answer = await world.call("GET", f"/api/conversations/{conversation}/messages?limit=1", person=world.alice)
    status = answer.body["messages"][0]["status"]
    expect(status == "read", f"REST says {status}")
    return "delivered, read"


@area.check("Typing is seen by the other person only")
async def typing(world: World) -> Found:
    """``typing.start``, then ``typing.stop``."""
    conversation = await world.conversation()
    sender, receiver = await world.messages(world.alice), await world.messages(world.bob)
    for is_typing, kind in ((True, "typing.start"), (False, "typing.stop")):
        await sender.send("typing", conversationId=conversation, isTyping=is_typing)
        await receiver.get(kind, senderId=world.alice.id)
    expect(not [1 for frame in await sender.flush() if frame["type"].startswith("typing.")], "the writer saw it too")
    return "start, stop"


@area.check("One's other devices get what one sends")
async def other_device(world: World) -> Found:
    """``message.new`` on the laptop for what the phone has sent, and none on the phone."""
    conversation = await world.conversation()
    phone, laptop = await world.messages(world.alice), await world.messages(world.alice)
    ack = await say(phone, conversation, "from the phone")
    await laptop.get("message.new", messageId=ack["messageId"])
    expect(not [1 for frame in await phone.flush() if frame["type"] == "message.new"], "the phone got its own message")
    return "the laptop, not the phone"


@area.check("A message sent over REST arrives on the socket")
async def from_rest(world: World) -> Found:
    """The same frame as any other."""
    conversation, receiver = await world.conversation(), await world.messages(world.bob)
    path = f"/api/conversations/{conversation}/messages"
    answer = await world.call("POST", path, {"text": "over REST"}, world.alice)
    expect(answer.status == 201, f"{answer.status} {answer.text[:120]}")
    await receiver.get("message.new", messageId=answer.body["message"]["id"])
    return "201, then message.new"


@area.check("Who was away gets what they missed")
async def offline_queue(world: World) -> Found:
    """Replayed on connecting until it is said to be delivered, and then no more."""
    conversation = await world.conversation()
    before = await world.messages(world.bob)
    ack = await say(await world.messages(world.alice), conversation, "while you were away")
    await before.send("message.delivered", conversationId=conversation, seq=ack["seq"] - 1)
    await before.flush()
    before.close()
    for expected in (1, 0):
        back = await world.messages(world.bob, replay=True)
        complete = await back.get("replay.complete")
        expect(complete["count"] == expected, f"{complete['count']} were replayed, not {expected}")
        await back.send("message.delivered", conversationId=conversation, seq=ack["seq"])
        await back.flush()
        back.close()
    return "once, then no more"


@area.check("A client that missed something syncs")
async def sync(world: World) -> Found:
    """All past the ``seq`` that it has, in order."""
    conversation, socket = await world.conversation(), await world.messages(world.alice)
    last = [(await say(socket, conversation, f"sync {number}"))["seq"] for number in range(2)][-1]
    await socket.send("sync", conversations={conversation: last - 2})
    seqs = [(await socket.get("message.new"))["seq"] for _ in range(2)]
    await socket.get("sync.complete", count=2)
    expect(seqs == [last - 1, last], f"{seqs} came")
    return "two, in order"


@area.check("A bounty's change reaches every subscriber, each event once")
async def bounty_event(world: World) -> Found:
    """Whoever is narrowed to it, whoever is not, and nobody who is narrowed to another."""
    bounty = await world.bounty()
    wide, narrow = await world.events(), await world.events(f"?bountyId={bounty}")
    elsewhere = await world.events(f"?bountyId={uuid.uuid4()}")
    await world.set_status("in_progress")
    events = [await socket.get("bounty.status", id=bounty, status="in_progress") for socket in (wide, narrow)]
    expect(events[0]["eventId"] == events[1]["eventId"], "the two have different ids for it")
    expect(not [1 for f in await elsewhere.flush() if f["type"] == "bounty.status"], "a stranger to it heard of it")
    await world.set_status("open")
    return f"event {events[0]['eventId']}"
