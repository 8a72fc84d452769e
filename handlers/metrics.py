"""``GET /metrics``: for anyone on this machine, else for whoever has METRICS_TOKEN."""

import hmac

from handlers.health import OpenHandler
from handlers.local import is_direct_from_loopback, is_loopback
from handlers.operation import operation
from protocol.codes import ErrorCode
from services.auth import auth_failed, auth_required


class MetricsHandler(OpenHandler):
    """``GET /metrics``"""

    @operation(answer=str, media_type="text/plain", errors=(ErrorCode.AUTH_REQUIRED, ErrorCode.AUTH_FAILED))
    def get(self) -> None:
        """Return every metric, as Prometheus reads them; away from the machine itself for METRICS_TOKEN."""
        if not self._is_local():
            self._check_token()
        body, media_type = self.context.metrics.expose(self.request.headers.get("Accept", ""))
        self.set_header("Content-Type", media_type)
        self.finish(body)

    def _is_local(self) -> bool:
        """Whether the request comes from this machine itself, and not through a proxy on it.

        Also its ``Host`` has to be this machine: a name that a foreign page made resolve to it is not, nor is the one
        that a proxy which adds no header of its own passes on.
        """
        host = self.request.host.rsplit(":", 1)[0] if not self.request.host.endswith("]") else self.request.host
        return is_direct_from_loopback(self.request) and (host == "localhost" or is_loopback(host.strip("[]")))

    def _check_token(self) -> None:
        expected, token = self.context.settings.metrics_token, self.bearer()
        if token is None:
            raise auth_required()
        if expected is None or not hmac.compare_digest(token.encode(), expected.encode()):
            raise auth_failed()
