"""Whether a request comes from this machine itself: what some pages give without a token, or give at all."""

import ipaddress

from tornado.httputil import HTTPServerRequest

# What proxies add. Whoever comes through one has its address, on loopback or not, and is somewhere else.
_FORWARDED = ("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Forwarded", "Via")


def is_direct_from_loopback(request: HTTPServerRequest) -> bool:
    """Whether the peer is on loopback and says of nobody behind it. Which ``Host`` may be named is the caller's."""
    return is_loopback(request.remote_ip or "") and not any(name in request.headers for name in _FORWARDED)


def is_loopback(address: str) -> bool:
    """Whether a text is an address of loopback, IPv4 in IPv6 included."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback
