"""``GET /metrics``: for anyone on this machine, else for whoever has METRICS_TOKEN."""

import hmac
import ipaddress

from handlers.health import OpenHandler
from handlers.operation import operation
from protocol.codes import ErrorCode
from services.auth import auth_failed, auth_required

# What proxies add. Whoever comes through one has its address, on loopback or not, and is somewhere else.
_FORWARDED = ("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Forwarded", "Via")


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
        if any(name in self.request.headers for name in _FORWARDED):
            return False
        host = self.request.host.rsplit(":", 1)[0] if not self.request.host.endswith("]") else self.request.host
        return _is_loopback(self.request.remote_ip or "") and (host == "localhost" or _is_loopback(host.strip("[]")))

    def _check_token(self) -> None:
        expected, token = self.context.settings.metrics_token, self.bearer()
        if token is None:
            raise auth_required()
        if expected is None or not hmac.compare_digest(token.encode(), expected.encode()):
            raise auth_failed()


def _is_loopback(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback
