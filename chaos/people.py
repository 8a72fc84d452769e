"""What people do with their devices: write, read, look, walk out of reach. All of it by a seeded generator."""

import asyncio
import random
import time
import uuid

from chaos.clients import Device, Outgoing
from chaos.rest import Rest

# A client with this many unacked messages waits with the next.
_MOST_UNACKED = 6
_TICK_S = 0.05


class Person:
    """Somebody with one or two devices.

    :param writes_every_s: mean seconds between two messages of one device.
    :param steady: never goes out of reach.
    """

    def __init__(
        self,
        user_id: str,
        devices: list[Device],
        rest: Rest,
        rng: random.Random,
        *,
        writes_every_s: float,
        steady: bool,
    ) -> None:
        self.user_id = user_id
        self.devices = devices
        self.writing = True
        self._rest = rest
        self._rng = rng
        self._writes_every_s = writes_every_s
        self._steady = steady
        self._marked: dict[tuple[str, bool], int] = {}

    async def run(self) -> None:
        """Live until cancelled."""
        lives = [self._look()]
        for device in self.devices:
            lives += [device.run(), self._tick(device), self._write(device), self._read(device)]
            if not self._steady:
                lives.append(self._wander(device))
        await asyncio.gather(*lives)

    async def _tick(self, device: Device) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            device.tick()

    async def _write(self, device: Device) -> None:
        rng = self._rng
        while True:
            await asyncio.sleep(rng.expovariate(1 / self._writes_every_s))
            if not self.writing or len(device.outbox) >= _MOST_UNACKED + 100 * self._steady:
                continue
            if device.acked and rng.random() < 0.03:  # as if the ack had been lost
                again = rng.choice(device.acked)
                device.transmit(Outgoing(again.key, again.conversation_id, again.text, rng.random() < 0.5))
                continue
            key = uuid.UUID(int=rng.getrandbits(128), version=4).hex
            text = f"{key} {'x' * (rng.randint(500, 3500) if rng.random() < 0.1 else rng.randint(1, 60))}"
            by_rest = not self._steady and rng.random() < 0.15
            outgoing = Outgoing(key, rng.choice(list(device.held)), text, by_rest)
            device.outbox[key] = outgoing
            if len(self.devices) > 1 and rng.random() < 0.02:  # two devices share an outbox: the same at once
                other = rng.choice(self.devices)
                other.outbox[key] = Outgoing(key, outgoing.conversation_id, text, rng.random() < 0.3)

    async def _read(self, device: Device) -> None:
        """Mark as delivered or read, up to the last message without a hole before it."""
        rng = self._rng
        while True:
            await asyncio.sleep(rng.uniform(0.4, 1.2))
            for conversation_id, seq in list(device.contiguous.items()):
                is_read = rng.random() < 0.4
                if rng.random() < 0.5 or self._marked.get((conversation_id, is_read), 0) >= seq or not device.online:
                    continue
                await self._mark(device, conversation_id, seq, is_read)

    async def _mark(self, device: Device, conversation_id: str, seq: int, is_read: bool) -> None:
        rng = self._rng
        self._marked[conversation_id, is_read] = seq
        message_id = device.held[conversation_id][seq]
        if rng.random() < 0.15:
            body = {"messageIds": [message_id], "status": "read" if is_read else "delivered"}
            await self._rest.call(self.user_id, "POST", f"/api/conversations/{conversation_id}/messages/status", body)
            return
        kind = "message.read" if is_read else "message.delivered"
        if rng.random() < 0.5:
            device.send(kind, conversationId=conversation_id, seq=seq)
        else:
            device.send(kind, conversationId=conversation_id, messageId=message_id)

    async def _look(self) -> None:
        """Open the list of conversations now and then."""
        while True:
            await asyncio.sleep(self._rng.uniform(4, 12))
            await self._rest.call(self.user_id, "GET", "/api/conversations")

    async def _wander(self, device: Device) -> None:
        rng = self._rng
        while True:
            await asyncio.sleep(rng.uniform(8, 40))
            if self.writing:
                device.stay_away_until = time.monotonic() + (
                    rng.uniform(0, 1) if rng.random() < 0.6 else rng.uniform(2, 9)
                )
                device.drop(cleanly=rng.random() < 0.5)
