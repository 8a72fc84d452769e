"""The main job: two people chat, and a bounty changed with SQL reaches a subscriber."""

from tests.harness import Server


async def test_two_people_chat(server: Server) -> None:
    """message.send is acked and arrives at the other person's two devices, and at the sender's other one."""
    alice, bob, chat = await server.pair()
    phone, laptop = await server.messages(alice), await server.messages(alice)
    theirs = [await server.messages(bob), await server.messages(bob)]
    ack = await phone.say(chat, "hello")
    assert ack["seq"] == 1
    for device in [laptop, *theirs]:
        message = await device.get("message.new")
        assert (message["text"], message["seq"], message["messageId"]) == ("hello", 1, ack["messageId"])
    await phone.nothing("message.new")
    await theirs[0].send("message.read", conversationId=chat, seq=1)
    assert (await phone.get("message.read"))["userId"] == bob


async def test_a_status_changed_by_sql_reaches_subscribers(server: Server) -> None:
    """A row that anybody updates is an event."""
    bounty, _ = await server.bounty()
    client = await server.events()
    server.sql("UPDATE bounties SET status = 'in_progress' WHERE id = %s", bounty)
    event = await client.get("bounty.status", status="in_progress")
    assert event["id"] == bounty
