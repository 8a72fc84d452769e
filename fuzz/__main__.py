"""``python -m fuzz``: hostile inputs against the decoder and a real server; fails on any breach."""

import argparse
import asyncio
import contextlib
import json
import random
import sys
import time
import uuid

import jwt
from tornado.httpclient import AsyncHTTPClient

from fuzz.campaign import Campaign
from fuzz.findings import Findings
from fuzz.healthy import Healthy
from fuzz.process import SECRET, ServerProcess, running
from storage import seed as seeded

# Of all inputs: drawn by hypothesis (all others are made from these); for the decoders; sent before memory is measured,
# as many as fill every cache and pool.
_DRAWN, _DECODED, _WARM_UP = 0.005, 0.3, 0.2
_MAX_GROWTH = 0.10
_SETTLE_S = 3.0


def main() -> int:
    """Run; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=200_000, help="how many, in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="gives the same inputs again")
    options = parser.parse_args()
    findings = Findings()
    started = time.monotonic()
    print(f"Fuzzing with {options.inputs} inputs, --seed {options.seed}", flush=True)
    with running() as server:
        asyncio.run(_run(server, options.inputs, options.seed, findings))
        if not server.alive:
            findings.breach("the server has ended")
        for line in server.complaints():
            findings.breach(f"in the server's log: {line}")
    findings.show()
    verdict = f"{len(findings.breaches)} BREACHES" if findings.breaches else "no breach"
    print(f"{findings.sent.total()} inputs, {verdict}, {time.monotonic() - started:.0f} s, --seed {options.seed}")
    return 1 if findings.breaches else 0


async def _run(server: ServerProcess, inputs: int, seed: int, findings: Findings) -> None:
    tokens = [_token(user_id) for user_id in (seeded.ALICE, seeded.BOB, str(uuid.uuid4()))]
    conversation_id = await _conversation(server.port, tokens[2])
    campaign = Campaign(tokens[2], conversation_id, seeded.BOUNTY, seed=seed, seeds=max(50, int(inputs * _DRAWN)))
    healthy = Healthy(server.port, (tokens[0], tokens[1]), seeded.CONVERSATION, findings)
    beside = asyncio.create_task(healthy.run())
    await asyncio.to_thread(campaign.decode, int(inputs * _DECODED), findings)
    warm_up = int(inputs * _WARM_UP)
    await campaign.send(server.port, warm_up, findings)
    await asyncio.sleep(_SETTLE_S)
    before_mb = server.rss_mb
    await campaign.send(server.port, max(0, inputs - findings.sent.total()), findings)
    await asyncio.sleep(_SETTLE_S)
    after_mb = server.rss_mb
    beside.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await beside
    if after_mb > before_mb * (1 + _MAX_GROWTH):
        findings.breach(f"memory grew from {before_mb:.1f} to {after_mb:.1f} MB")
    print(f"  memory     {before_mb:.1f} MB after {warm_up} inputs, {after_mb:.1f} MB at the end")
    print(f"  beside it  {healthy.messages} chat messages, slowest round {healthy.slowest_s * 1000:.0f} ms", flush=True)


def _token(user_id: str) -> str:
    now = int(time.time())
    return jwt.encode({"sub": user_id, "aud": "authenticated", "iat": now, "exp": now + 24 * 3600}, SECRET, "HS256")


async def _conversation(port: int, token: str) -> str:
    """Return a conversation of the token's user, with someone who is not there."""
    answer = await AsyncHTTPClient().fetch(
        f"http://127.0.0.1:{port}/api/conversations",
        method="POST",
        headers={"Authorization": f"Bearer {token}"},
        body=json.dumps({"participantIds": [seeded.BOB]}),
    )
    return str(json.loads(answer.body)["conversation"]["id"])


if __name__ == "__main__":
    sys.exit(main())
