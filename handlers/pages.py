"""Pages and what belongs to them: files of ``static/``, and libraries that come with installed packages.

A page is served to anyone and holds no data; what it shows it asks for with its reader's token.
"""

from datetime import datetime
from pathlib import Path

from tornado import web

from handlers.base import BaseHandler, nothing_here
from handlers.context import Context

# Nothing but our own files and our own server: no inline script or style, no frame around us, nothing from elsewhere.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class FileHandler(BaseHandler, web.StaticFileHandler):
    """A file, with its type, a cache that asks each time whether it is still the same, and a strict policy.

    ``root`` is a folder and the address says which file of it, or a file for an address that names none.
    """

    def initialize(self, context: Context, root: Path) -> None:  # type: ignore[override]
        BaseHandler.initialize(self, context)
        web.StaticFileHandler.initialize(self, str(root if root.is_dir() else root.parent))
        self._only = None if root.is_dir() else root.name

    async def get(self, path: str | None = None, include_body: bool = True) -> None:
        """Answer with the file. Raises ``AppError`` NOT_FOUND for what no file can be called."""
        if path is not None and "\x00" in path:  # Tornado would fail
            raise nothing_here()
        await super().get(self._only or path or "", include_body)

    async def head(self, path: str | None = None) -> None:
        """Answer without it."""
        await self.get(path, include_body=False)

    def set_extra_headers(self, path: str) -> None:
        """Set what a page needs."""
        self.set_header("Cache-Control", "no-cache")
        self.set_header("Content-Security-Policy", _POLICY)
        self.set_header("Cross-Origin-Opener-Policy", "same-origin")
        self.set_header("Referrer-Policy", "no-referrer")

    def get_content_type(self) -> str:
        """Return the type of the file, whose text is UTF-8."""
        kind = super().get_content_type()
        return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind

    def get_cache_time(self, path: str, modified: datetime | None, mime_type: str) -> int:
        """Return 0: whatever the query says, no file is kept without asking."""
        return 0

    def compute_etag(self) -> str | None:
        """Return a name for the file as it is now: Tornado's own is by its content, read once a process."""
        if self.absolute_path is None:
            return None
        stat = Path(self.absolute_path).stat()
        return f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'
