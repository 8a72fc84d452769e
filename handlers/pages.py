"""Pages and what belongs to them: files of ``static/``, under a policy that lets nothing in from elsewhere.

A page is served to anyone and holds no data; what it shows it asks for with its reader's token.
"""

import re
from datetime import datetime
from pathlib import Path
from typing import Any

from tornado import web

from handlers.base import BaseHandler, nothing_here
from handlers.context import Context
from protocol.codes import AppError

STATIC = Path(__file__).resolve().parent.parent / "static"
# Text becomes markup nowhere in a page that has this too.
NO_MARKUP_FROM_TEXT = "; require-trusted-types-for 'script'"

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'{sockets};"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HOST = re.compile(r"[A-Za-z0-9.-]+(:[0-9]+)?|\[[0-9A-Fa-f:.]+\](:[0-9]+)?")
# What the system's own table says of these differs from one machine to the next.
_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".ts": "text/plain"}


class FileHandler(BaseHandler, web.StaticFileHandler):
    """A file, with its type, a cache that asks each time whether it is still the same, and a strict policy.

    :param root: a folder, and the address says which file of it; or a file, for an address that names none.
    :param more_policy: what the page's Content-Security-Policy has besides.
    """

    def initialize(self, context: Context, root: Path, more_policy: str = "") -> None:  # type: ignore[override]
        BaseHandler.initialize(self, context)
        self._only = root.name if root.is_file() else None
        self._more_policy = more_policy
        web.StaticFileHandler.initialize(self, str(root.parent if self._only else root))

    async def get(self, path: str | None = None, include_body: bool = True) -> None:
        """Answer with the file. Raises ``AppError`` NOT_FOUND for what no file can be called."""
        if path is not None and "\x00" in path:  # Tornado would fail
            raise nothing_here()
        await super().get(self._only or path or "", include_body)

    async def head(self, path: str | None = None) -> None:
        """Answer without it."""
        await self.get(path, include_body=False)

    def set_extra_headers(self, path: str) -> None:
        # Some browsers don't take a WebSocket of the same host for 'self'.
        host = self.request.host if _HOST.fullmatch(self.request.host) else ""
        policy = _POLICY.format(sockets=f" ws://{host} wss://{host}" if host else "")
        self.set_header("Content-Security-Policy", policy + self._more_policy)
        self.set_header("Cache-Control", "no-cache")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cross-Origin-Opener-Policy", "same-origin")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")

    def get_content_type(self) -> str:
        """Return the type by the name; all text of ours is UTF-8."""
        kind = _TYPES.get(Path(self.absolute_path or "").suffix) or super().get_content_type()
        return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind

    def get_cache_time(self, path: str, modified: datetime | None, mime_type: str) -> int:
        """Return 0: whatever the query says, no file is kept without asking."""
        return 0

    def compute_etag(self) -> str | None:
        """Return a tag that changes with the file; Tornado's is kept for as long as the process lives."""
        if self.absolute_path is None:
            return None
        file = Path(self.absolute_path).stat()
        return f'"{file.st_mtime_ns:x}-{file.st_size:x}"'

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer with JSON; a directory or a path that leads out is nothing that is here."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if status_code == 403 and not isinstance(error, AppError):
            status_code = 404
        super().write_error(status_code, **kwargs)
