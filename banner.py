"""What ``server.py`` prints when it answers: where to go, what it stands on, what is off."""

from urllib.parse import urlsplit

from settings import Settings
from storage import seed


def banner(version: str, settings: Settings, host: str, port: int) -> str:
    """Return a few lines. The first has the word ``listening``, and ends with the address."""
    address = f"{f'[{host}]' if ':' in host else host}:{port}"
    rows = [("console", f"http://{address}/console   (in two tabs: alice and bob)")] if settings.console_on else []
    rows += [
        ("events", f"ws://{address}/events/subscribe"),
        ("messages", f"ws://{address}/messages/subscribe?token=…"),
        ("documents", f"http://{address}/docs/openapi.json, /docs/asyncapi.json"),
        ("database", _database(settings)),
    ]
    if not settings.database_url:
        rows += [
            ("a token", ".venv/bin/python server.py token alice   (or bob)"),
            ("bounty", seed.BOUNTY),
            ("chat", seed.CONVERSATION),
        ]
    rows += [("off", reason) for reason in what_is_off(settings)]
    head = f"BountyExpo Realtime {version}, {settings.environment}, listening on http://{address}"
    return "\n".join([head, *(f"  {name:<12}{text}" for name, text in rows)])


def what_is_off(settings: Settings) -> list[str]:
    """Return what this configuration leaves out, each with the setting that would change it."""
    off = []
    unlimited = [name.upper() for name in _RATES if not getattr(settings, name)]
    if unlimited:
        off.append(f"limits: {', '.join(unlimited)} is 0")
    if not settings.pushes:
        off.append("pushes: PUSH is off" if settings.push == "off" else "pushes: EXPO_ACCESS_TOKEN is not set")
    return off


_RATES = ("connect_rate_per_10s", "message_rate", "typing_rate", "frame_rate", "rest_rate_per_minute")


def _database(settings: Settings) -> str:
    if not settings.database_url:
        return f"embedded PostgreSQL in {settings.data_dir}"
    parts = urlsplit(settings.database_url)
    return f"{parts.path.lstrip('/') or 'PostgreSQL'} at {parts.hostname or 'a local socket'}"  # never the password
