"""Tokens of people who exist for development only. Nothing in production calls this."""

import time

import jwt
from msgspec import Struct

from protocol.codes import AppError, ErrorCode
from services.auth import AUDIENCE

LIFETIME_S = 24 * 3600


class DevelopmentTokens(Struct, frozen=True):
    """Makes tokens as Supabase does, with the shared secret. ``secret`` is None where none may be made."""

    secret: str | None
    issuer: str | None

    def make(self, user_id: str, handle: str | None = None, *, is_admin: bool = False) -> str:
        """Return a token valid for a day; with ``handle`` for a profile that is yet to be made.

        Raises ``AppError`` FORBIDDEN without a secret.
        """
        if self.secret is None:
            raise AppError(ErrorCode.FORBIDDEN, "This server makes no tokens: sign in and paste one.")
        now = int(time.time())
        claims: dict[str, object] = {
            "sub": user_id,
            "aud": AUDIENCE,
            "role": "authenticated",
            "iat": now,
            "exp": now + LIFETIME_S,
        }
        if is_admin:
            claims["app_metadata"] = {"role": "admin"}
        if self.issuer:
            claims["iss"] = self.issuer
        if handle:
            claims["user_metadata"] = {"handle": handle}
        return jwt.encode(claims, self.secret, algorithm="HS256")
