"""What is measured. Each scenario runs in the load process and returns its figures by name."""

from collections.abc import Callable

from bench.load.job import Job
from bench.scenarios import chat, connects, crowd, fan_out, group, growth, memory, mixed, replay

SCENARIOS: dict[str, Callable[[Job], dict[str, float]]] = {
    "fan_out": fan_out.run,
    "chat": chat.run,
    "group": group.run,
    "connects": connects.run,
    "memory": memory.run,
    "replay": replay.run,
    "mixed": mixed.run,
    "crowd": crowd.run,
    "growth": growth.run,
}
