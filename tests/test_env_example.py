"""deploy/env.example has every setting, as it is; and the units hand over every secret."""

import re

from deploy.make_env_example import env_example
from settings import SECRETS, Settings, load
from tests.test_command import ROOT

DEPLOY = ROOT / "deploy"
EXAMPLE = (DEPLOY / "env.example").read_text()


def test_it_is_made_from_the_settings() -> None:
    """By `make env-example`, after the last change of a setting or of the README's table."""
    assert env_example() == EXAMPLE


def test_it_is_what_the_server_reads() -> None:
    """As it is but for the database and a key; and with every line uncommented each setting has its default."""
    secrets = {"DATABASE_URL": "postgresql://db/app", "SUPABASE_JWT_SECRET": "x" * 32}
    path = str(DEPLOY / "env.example")
    settings = load({"ENV_FILE": path, **secrets})
    assert settings.production
    assert settings.trusted_proxies == ("127.0.0.1", "::1")
    shown = dict(re.findall(r"^#?([A-Z][A-Z0-9_]*)=(.*)$", EXAMPLE, re.MULTILINE))
    names = {name.upper() for name in Settings.__struct_fields__} - {"ENV_FILE"}
    assert {name.removesuffix("_FILE") for name in shown} == names
    kept = {"environment": settings.environment, "trusted_proxies": settings.trusted_proxies}
    defaults = load({**shown, **secrets})
    assert defaults == load({**secrets, "ENVIRONMENT": "production", "TRUSTED_PROXIES": "127.0.0.1,::1"})
    assert {name: getattr(defaults, name) for name in kept} == kept


def test_the_unit_hands_over_every_secret() -> None:
    """Each as a credential, named to the server by its variable; none on a command line or in the environment."""
    unit = (DEPLOY / "systemd" / "bountyexpo-realtime.service").read_text()
    for name in SECRETS:
        file = name.replace("_", "-")
        assert f"LoadCredential={file}:/etc/bountyexpo-realtime/secrets/{file}\n" in unit
        assert f"Environment={name.upper()}_FILE=%d/{file}\n" in unit
        assert f"{name.upper()}=" not in unit
