"""Settings: defaults, what is refused and how that is told, and what is never printed."""

import ipaddress
from pathlib import Path

import pytest

from settings import Settings, SettingsError, load

SECRET = "a-secret-that-must-not-be-printed-anywhere"
PRODUCTION = {"ENVIRONMENT": "production", "DATABASE_URL": "postgresql://db/app", "SUPABASE_JWT_SECRET": SECRET}

# The defaults of the contract's table of limits.
LIMITS = {
    "MAX_CONNECTIONS": 10000, "MAX_CONNECTIONS_PER_USER": 10, "MAX_CONNECTIONS_PER_IP": 200,
    "CONNECT_RATE_PER_10S": 60, "MESSAGE_RATE": 5, "MESSAGE_BURST": 20, "TYPING_RATE": 2, "TYPING_BURST": 10,
    "FRAME_RATE": 20, "FRAME_BURST": 60, "REST_RATE_PER_MINUTE": 100, "MAX_FRAME_BYTES": 65536,
    "MAX_BODY_BYTES": 262144, "MAX_HEADER_BYTES": 16384, "MAX_TEXT_CHARS": 4000, "MAX_SEND_QUEUE_BYTES": 1048576,
    "HEARTBEAT_INTERVAL_S": 25, "HEARTBEAT_TIMEOUT_S": 20, "PRESENCE_GRACE_S": 3, "TYPING_TTL_S": 6,
    "REPLAY_MAX_PER_CONVERSATION": 200, "REPLAY_MAX": 1000, "EVENT_REPLAY_MAX": 1000, "REQUEST_TIMEOUT_S": 10,
}  # fmt: skip


def problems(**environment: str) -> list[str]:
    """Return what is said about these variables, a line each."""
    with pytest.raises(SettingsError) as caught:
        load(environment)
    return str(caught.value).splitlines()


def test_the_defaults_are_the_contract_s() -> None:
    """Each limit has the default of section 6, and its variable's name."""
    settings = load({})
    assert settings == Settings()
    assert {name: getattr(settings, name.lower()) for name in LIMITS} == LIMITS
    assert (settings.port, settings.environment) == (3001, "development")


def test_each_limit_is_read_from_its_variable() -> None:
    """Each is a setting, read from the environment variable of this name."""
    for name, default in LIMITS.items():
        assert getattr(load({name: f" {default * 2} "}), name.lower()) == default * 2
    assert load({"PORT": "", "MESSAGE_RATE": " "}) == Settings()


def test_a_rate_of_nothing_is_off_and_a_cap_of_nothing_is_wrong() -> None:
    """For a rate, 0 turns it off; a cap of 0 would let nobody in and is refused."""
    for name in LIMITS:
        if "RATE" in name:
            assert getattr(load({name: "0"}), name.lower()) == 0
        elif name != "PRESENCE_GRACE_S":
            [problem] = problems(**{name: "0"})
            assert name in problem


@pytest.mark.parametrize(
    ("name", "wrong", "expected"),
    [
        ("PORT", "http", "a whole number"),
        ("PORT", "65536", "65535"),
        ("PORT", "-1", "0"),
        ("PORT", "80.5", "a whole number"),
        ("ENVIRONMENT", "prod", "development, production"),
        ("LOG_FORMAT", "xml", "auto, console, json"),
        ("LOG_LEVEL", "loud", "debug, info, warning, error"),
        ("MAX_CONNECTIONS", "many", "a whole number"),
        ("MESSAGE_RATE", "-1", "0"),
        ("MESSAGE_RATE", "nan", "number"),
        ("MESSAGE_RATE", "inf", "1000000"),
        ("HEARTBEAT_INTERVAL_S", "nan", "number"),
        ("HEARTBEAT_INTERVAL_S", "inf", "86400"),
        ("REQUEST_TIMEOUT_S", "inf", "86400"),
        ("PRESENCE_GRACE_S", "-1", "0"),
        ("MAX_HEADER_BYTES", "10", "4096"),
        ("METRICS_TOKEN", "abc123", "at least 16 characters"),
        ("ANALYTICS_RETENTION_DAYS", "0", "1"),
        ("ANALYTICS_RETENTION_DAYS", "1000000", "3650"),
        ("DATABASE_URL", "mysql://db/app", "postgresql://"),
        ("SUPABASE_URL", "project.supabase.co", "https://"),
        ("SUPABASE_JWT_SECRET", "short", "32 characters"),
        ("ALLOWED_ORIGINS", "app.example", "https://app.example"),
        ("TRUSTED_PROXIES", "10.0.0.0/33", "networks"),
        ("TRUSTED_PROXIES", "loadbalancer", "networks"),
        ("PUSH", "yes", "on, off"),
        ("PUSH_PREVIEW", "1", "on, off"),
        ("PUSH_AFTER_S", "-1", "0"),
        ("PUSH_MAX_AGE_S", "0", "0"),
        ("PUSH_MAX_AGE_S", "90000", "86400"),
        ("EXPO_ACCESS_TOKEN", "two words", "without a space"),
        ("EXPO_ACCESS_TOKEN", "a\nb", "printable"),
        ("EXPO_PUSH_URL", "exp.host/push", "https://"),
        ("EXPO_PUSH_URL", "http://exp.host/push", "https://"),
        ("EXPO_PUSH_URL", "http://127.evil.example/push", "https://"),
        ("EXPO_PUSH_URL", "https://[::1", "https://"),
        ("EXPO_PUSH_URL", "ftp://127.0.0.1/push", "https://"),
    ],
)
def test_a_wrong_value_is_named(name: str, wrong: str, expected: str) -> None:
    """Every wrong value names the setting and what was expected."""
    [problem] = problems(**{name: wrong})
    assert problem.startswith(name) and "expected" in problem.replace("Expected", "expected"), problem
    assert expected in problem, problem


def test_all_wrong_values_are_told_at_once() -> None:
    """Several wrong settings are told together, a line each."""
    told = problems(PORT="x", MESSAGE_RATE="-1", SUPABASE_URL="x", TRUSTED_PROXIES="x,10.0.0.1,y")
    assert [line.split()[0] for line in told] == [
        "PORT", "MESSAGE_RATE", "SUPABASE_URL", "TRUSTED_PROXIES", "TRUSTED_PROXIES",
    ]  # fmt: skip


def test_production_needs_a_database_and_a_key() -> None:
    """ENVIRONMENT=production refuses to start without DATABASE_URL and a key; either kind of key will do."""
    told = problems(ENVIRONMENT="production")
    assert len(told) == 2
    assert "DATABASE_URL" in told[0] and "SUPABASE_JWT_SECRET" in told[1] and "SUPABASE_URL" in told[1]
    assert load(PRODUCTION).production
    by_url = {**PRODUCTION, "SUPABASE_JWT_SECRET": "", "SUPABASE_URL": "https://x.supabase.co"}
    assert load(by_url).production
    for missing in ("DATABASE_URL", "SUPABASE_JWT_SECRET"):
        assert problems(**{**PRODUCTION, missing: ""})


def test_secrets_are_never_printed() -> None:
    """What is wrong with a secret or an address that may hold a password is told without it."""
    told = "\n".join(
        problems(
            SUPABASE_JWT_SECRET="hunter2-hunter2",
            DATABASE_URL="mysql://app:hunter2@db/app",
            SUPABASE_URL="hunter2.supabase.co",
            EXPO_ACCESS_TOKEN="hunter2 hunter2",
            EXPO_PUSH_URL="http://hunter2.example",
            PORT="wrong",
        )
    )
    assert "hunter2" not in told
    assert all(name in told for name in ("SUPABASE_JWT_SECRET", "DATABASE_URL", "SUPABASE_URL", "PORT"))


def test_lists_are_split_by_commas() -> None:
    """ALLOWED_ORIGINS and TRUSTED_PROXIES hold several, with or without spaces and a slash at the end."""
    settings = load({"ALLOWED_ORIGINS": "https://a.example/, https://b.example,", "TRUSTED_PROXIES": "10.0.0.0/8,::1"})
    assert settings.allowed_origins == ("https://a.example", "https://b.example")
    assert [ipaddress.ip_network(proxy).num_addresses for proxy in settings.trusted_proxies] == [2**24, 1]


def test_supabase_s_addresses() -> None:
    """Keys and issuer come from SUPABASE_URL, with or without a slash at its end."""
    for url in ("https://x.supabase.co", "https://x.supabase.co/"):
        settings = load({"SUPABASE_URL": url})
        assert settings.jwks_url == "https://x.supabase.co/auth/v1/.well-known/jwks.json"
        assert settings.issuer == "https://x.supabase.co/auth/v1"


def test_a_secret_may_stand_in_a_file(tmp_path: Path) -> None:
    """NAME_FILE for each that is one, without the line's end; an empty file is a setting that is not set."""
    path = tmp_path / "secret"
    path.write_text(f"{SECRET}\n")
    assert load({"SUPABASE_JWT_SECRET_FILE": str(path)}).supabase_jwt_secret == SECRET
    path.write_text("postgresql://db/app")
    assert load({"DATABASE_URL_FILE": f" {path} "}).database_url == "postgresql://db/app"
    path.write_text("\n")
    assert load({"DATABASE_URL_FILE": str(path), "SUPABASE_JWT_SECRET_FILE": str(path)}) == Settings()
    assert load({"PORT_FILE": str(path)}) == Settings(), "it is no secret"


def test_a_wrong_secret_file_is_named_without_what_is_in_it(tmp_path: Path) -> None:
    """Missing, no text, given twice, or wrong inside."""
    path = tmp_path / "secret"
    [problem] = problems(DATABASE_URL_FILE=str(path))
    assert problem == f"DATABASE_URL_FILE is '{path}': expected a file that can be read (No such file or directory)."
    [problem] = problems(METRICS_TOKEN_FILE="no\0name")  # of ENV_FILE: a reload must not end the server
    assert problem.startswith("METRICS_TOKEN_FILE is") and "can be read" in problem
    path.write_bytes(b"hunter2\xff")
    [problem] = problems(SUPABASE_JWT_SECRET_FILE=str(path))
    assert problem.startswith("SUPABASE_JWT_SECRET_FILE is") and "hunter2" not in problem
    path.write_text("hunter2")
    [problem] = problems(SUPABASE_JWT_SECRET_FILE=str(path))
    assert "too short" in problem and "hunter2" not in problem
    [problem] = problems(SUPABASE_JWT_SECRET_FILE=str(path), SUPABASE_JWT_SECRET=SECRET)
    assert "both set" in problem and "hunter2" not in problem and SECRET not in problem


def test_settings_in_a_file(tmp_path: Path) -> None:
    """As a shell or systemd reads it; the environment goes before, and a wrong line is named by its number."""
    path = tmp_path / "env"
    path.write_text(
        "# settings\n\nPORT=4000\n MESSAGE_RATE=2\nLOG_LEVEL='error'\nALLOWED_ORIGINS=\"https://a.example\"\n"
    )
    settings = load({"ENV_FILE": str(path), "PORT": "5000"})
    assert (settings.port, settings.message_rate, settings.log_level) == (5000, 2, "error")
    assert settings.allowed_origins == ("https://a.example",)
    path.write_text("PORT=4000\nhunter2\nexport X=1\n")
    told = problems(ENV_FILE=str(path))
    assert [line.split(": ")[1] for line in told] == [
        "line 2 is wrong, expected NAME=value.", "line 3 is wrong, expected NAME=value.",
    ]  # fmt: skip
    assert "hunter2" not in "".join(told)
    [problem] = problems(ENV_FILE=str(tmp_path / "none"))
    assert "No such file" in problem


def test_pushes_are_on_with_a_token_alone() -> None:
    """Without Expo's access token, or with PUSH=off, they are off; a stand-in on this machine needs no TLS."""
    assert not load({}).pushes
    assert load({"EXPO_ACCESS_TOKEN": "t"}).pushes
    assert not load({"EXPO_ACCESS_TOKEN": "t", "PUSH": "off"}).pushes
    for url in ("http://127.0.0.1:8000/push", "http://localhost/push", "http://[::1]:1/push"):
        assert load({"EXPO_PUSH_URL": url}).expo_push_url == url
    settings = load({})
    assert settings.expo_push_url == "https://exp.host/--/api/v2/push"
    assert (settings.push_after_s, settings.push_coalesce_s, settings.push_max_age_s) == (10, 5, 3600)
    assert settings.push_receipts_after_s == 900
