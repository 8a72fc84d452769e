"""Every setting, read from the environment and checked as a whole.

A setting's environment variable is its name in upper case. ``ENV_FILE`` names a file with more of them, which the
environment itself overrides; a secret may stand in a file of its own, named by its variable with ``_FILE``.
``Settings`` is frozen: a reload makes a new one.
"""

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Rate = Annotated[float, Meta(ge=0, le=1_000_000)]  # a second unless the name says otherwise; 0 turns the limit off

# What no log, error or command line may show. Each can be read from the file that NAME_FILE names.
SECRETS = frozenset({"database_url", "expo_access_token", "metrics_token", "supabase_jwt_secret"})

# What a reload (SIGHUP) changes in the running server; all others take a restart.
LIVE_SETTINGS = frozenset({
    "allowed_origins", "connect_rate_per_10s", "drain_timeout_s", "frame_burst", "frame_rate", "log_level",
    "max_body_bytes", "max_connections", "max_connections_per_ip", "max_connections_per_user", "max_frame_bytes",
    "max_send_queue_bytes", "max_text_chars", "message_burst", "message_rate", "rest_rate_per_minute",
    "supabase_jwt_secret", "supabase_url", "trusted_proxies", "typing_burst", "typing_rate",
})  # fmt: skip

MIN_SECRET_CHARS = 32  # HS256 wants a key of at least its hash's size (RFC 7518, section 3.2)
MIN_METRICS_TOKEN_CHARS = 16  # past guessing over a network


# As systemd and a shell write them: one assignment a line, with or without quotes around the value.
_ASSIGNMENT = re.compile(r"(?P<name>[A-Z][A-Z0-9_]*)=(?:(?P<quote>[\"'])(?P<quoted>.*)(?P=quote)|(?P<plain>[^\"'].*|))")


class SettingsError(Exception):
    """One or more settings are wrong; ``str(error)`` says which and what was expected, one line each."""


class Settings(Struct, frozen=True, kw_only=True):
    """The configuration. Defaults are those of the wire contract, section 6."""

    environment: Literal["development", "production"] = "development"
    env_file: str | None = None
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 3001
    database_url: str | None = None
    database_pool_size: Annotated[int, Meta(ge=2, le=100)] = 8
    data_dir: str = ".data"
    startup_timeout_s: Seconds = 30
    drain_timeout_s: Seconds = 20

    supabase_url: str | None = None
    supabase_jwt_secret: str | None = None
    allowed_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()

    console: Literal["auto", "on", "off"] = "auto"

    metrics_token: str | None = None
    analytics_retention_days: Annotated[int, Meta(ge=1, le=3650)] = 90

    push: Literal["on", "off"] = "on"
    expo_access_token: str | None = None
    expo_push_url: str = "https://exp.host/--/api/v2/push"
    push_preview: Literal["on", "off"] = "on"
    push_after_s: Annotated[float, Meta(ge=0, le=86_400)] = 10
    push_coalesce_s: Seconds = 5
    push_max_age_s: Seconds = 3600
    push_receipts_after_s: Seconds = 900

    log_format: Literal["auto", "console", "json"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    max_connections: Count = 10_000
    max_connections_per_user: Count = 10
    max_connections_per_ip: Count = 200
    connect_rate_per_10s: Rate = 60
    message_rate: Rate = 5
    message_burst: Count = 20
    typing_rate: Rate = 2
    typing_burst: Count = 10
    frame_rate: Rate = 20
    frame_burst: Count = 60
    rest_rate_per_minute: Rate = 100
    max_frame_bytes: Annotated[int, Meta(ge=1024)] = 65_536
    max_body_bytes: Annotated[int, Meta(ge=1024)] = 262_144
    max_header_bytes: Annotated[int, Meta(ge=4096)] = 16_384
    max_text_chars: Count = 4000
    max_send_queue_bytes: Annotated[int, Meta(ge=65_536)] = 1_048_576
    heartbeat_interval_s: Seconds = 25
    heartbeat_timeout_s: Seconds = 20
    presence_grace_s: Annotated[float, Meta(ge=0, le=86_400)] = 3
    typing_ttl_s: Seconds = 6
    replay_max_per_conversation: Count = 200
    replay_max: Count = 1000
    event_replay_max: Count = 1000
    request_timeout_s: Seconds = 10

    @property
    def production(self) -> bool:
        """Whether development conveniences are off."""
        return self.environment == "production"

    @property
    def pushes(self) -> bool:
        """Whether people who are away are pushed to."""
        return self.push == "on" and self.expo_access_token is not None

    @property
    def console_on(self) -> bool:
        """Whether there is a console: in development, unless said otherwise."""
        return self.console == "on" or (self.console == "auto" and not self.production)

    @property
    def jwks_url(self) -> str | None:
        """Where Supabase publishes its signing keys."""
        return f"{self.supabase_url}/auth/v1/.well-known/jwks.json" if self.supabase_url else None

    @property
    def issuer(self) -> str | None:
        """The ``iss`` that tokens must carry, when it is known."""
        return f"{self.supabase_url}/auth/v1" if self.supabase_url else None


def load(environment: Mapping[str, str]) -> Settings:
    """Return the settings in ``environment`` and in the files that it names.

    Raises ``SettingsError`` naming every setting that is wrong.
    """
    values: dict[str, Any] = {}
    problems: list[str] = []
    given = _with_file(environment, problems)
    for field in msgspec.structs.fields(Settings):
        name = field.name.upper()
        raw = given.get(name, "").strip()
        if field.name in SECRETS and given.get(f"{name}_FILE", "").strip():
            raw = _secret(name, raw, Path(given[f"{name}_FILE"].strip()), problems)
        if not raw:
            continue
        try:
            values[field.name] = _convert(raw, field.type)
        except msgspec.ValidationError as error:
            problems.append(f"{name} is {_shown(name, raw)}: {_plainly(str(error), field.type)}.")
    problems += _inconsistent(values)
    if problems:
        raise SettingsError("\n".join(problems))
    if "supabase_url" in values:
        values["supabase_url"] = values["supabase_url"].rstrip("/")
    return Settings(**values)


def _with_file(environment: Mapping[str, str], problems: list[str]) -> Mapping[str, str]:
    """Return the environment with what the file of ENV_FILE adds: NAME=value lines, ``#`` before a comment."""
    path = environment.get("ENV_FILE", "").strip()
    if not path:
        return environment
    added: dict[str, str] = {}
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"ENV_FILE is {path!r}: {_reason(error)}.")
        return environment
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        found = _ASSIGNMENT.fullmatch(line)
        if found is None:  # the line itself may hold a secret
            problems.append(f"ENV_FILE is {path!r}: line {number} is wrong, expected NAME=value.")
        else:
            added[found["name"]] = found["quoted"] if found["quote"] else found["plain"]
    return {**added, **environment}


def _secret(name: str, raw: str, path: Path, problems: list[str]) -> str:
    """Return what the file of a secret setting holds. An empty file is a setting that is not set."""
    if raw:
        problems.append(f"{name} and {name}_FILE are both set: expected one of them.")
        return ""
    try:
        return path.read_text().strip()
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a name that can be no file's
        problems.append(f"{name}_FILE is {str(path)!r}: {_reason(error)}.")
        return ""


def _reason(error: OSError | ValueError) -> str:
    return f"expected a file that can be read ({getattr(error, 'strerror', None) or 'it is no text'})"


def _convert(raw: str, kind: Any) -> Any:
    if kind == tuple[str, ...]:
        return tuple(part.strip().rstrip("/").lower() for part in raw.split(",") if part.strip())
    return msgspec.convert(raw, kind, strict=False)


def _plainly(reason: str, kind: Any) -> str:
    """Say a validation error in words for who sets an environment variable."""
    if get_origin(kind) is Literal:
        return f"expected one of {', '.join(get_args(kind))}"
    reason = reason.removesuffix(", got `str`").replace("Expected", "expected")
    for name, words in (("`int`", "a whole number"), ("`float`", "a number"), ("`bool`", "true or false")):
        reason = reason.replace(name, words)
    return reason


def _shown(name: str, raw: str) -> str:
    return "set" if name.lower() in SECRETS or "URL" in name else repr(raw)


def _inconsistent(values: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with values that are well-formed each by itself."""
    problems = []
    if values.get("environment") == "production":
        if not values.get("database_url"):
            problems.append("DATABASE_URL is missing: ENVIRONMENT=production needs a PostgreSQL address.")
        if not values.get("supabase_jwt_secret") and not values.get("supabase_url"):
            problems.append(
                "SUPABASE_JWT_SECRET and SUPABASE_URL are missing: ENVIRONMENT=production needs one to check tokens."
            )
    secret = values.get("supabase_jwt_secret")
    if secret and len(secret) < MIN_SECRET_CHARS:
        problems.append(f"SUPABASE_JWT_SECRET is too short: expected at least {MIN_SECRET_CHARS} characters.")
    if secret and "-----BEGIN" in secret:
        problems.append("SUPABASE_JWT_SECRET is a PEM key: expected a shared secret (SUPABASE_URL is for keys).")
    if len(values.get("metrics_token", "x" * MIN_METRICS_TOKEN_CHARS)) < MIN_METRICS_TOKEN_CHARS:
        problems.append(f"METRICS_TOKEN is too short: expected at least {MIN_METRICS_TOKEN_CHARS} characters.")
    database = values.get("database_url")
    if database and not database.startswith(("postgresql://", "postgres://")):
        problems.append("DATABASE_URL is set: expected an address like postgresql://user:password@host:5432/name.")
    supabase = values.get("supabase_url")
    if supabase and not supabase.startswith(("https://", "http://")):
        problems.append("SUPABASE_URL is set: expected an address like https://project.supabase.co.")
    for origin in values.get("allowed_origins", ()):
        if origin != "*" and "://" not in origin:
            problems.append(f"ALLOWED_ORIGINS holds {origin!r}: expected addresses like https://app.example.")
    for network in values.get("trusted_proxies", ()):
        try:
            ipaddress.ip_network(network, strict=False)
        except ValueError:
            problems.append(f"TRUSTED_PROXIES holds {network!r}: expected addresses or networks, split by commas.")
    return problems + _wrong_about_expo(values)


def _wrong_about_expo(values: Mapping[str, Any]) -> list[str]:
    problems = []
    token, url = values.get("expo_access_token", ""), values.get("expo_push_url", "https://exp.host")
    if not token.isascii() or not token.isprintable() or " " in token:
        problems.append("EXPO_ACCESS_TOKEN is set: expected printable characters without a space.")
    try:
        scheme, host = urlsplit(url).scheme, urlsplit(url).hostname
    except ValueError:
        scheme, host = "", None
    # The access token goes with every request: in the clear on this machine only, where a test's stand-in is.
    if not host or scheme not in ("https", "http" if _is_loopback(host) else "https"):
        problems.append("EXPO_PUSH_URL is set: expected an address like https://exp.host/--/api/v2/push.")
    return problems


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
