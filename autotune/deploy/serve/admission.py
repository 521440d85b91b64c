"""Which requests are let in: with the token or, without one, those of this machine alone."""

from __future__ import annotations

import hmac
import ipaddress
from urllib.parse import urlsplit

from fastapi import HTTPException, Request


def require_token(request: Request, token: str) -> None:
    """Raise status 401 for a request without the token."""
    sent = request.headers.get("authorization", "").removeprefix("Bearer ")
    if not hmac.compare_digest(sent.encode(), token.encode()):
        raise HTTPException(401, "A token is required. Send Authorization: Bearer TOKEN.")


def require_local(request: Request) -> None:
    """Raise status 403 for a request that a page of another site may have sent.

    A browser on this machine reaches the server for any page. The page's site shows in `Host` if
    its name was made to lead here, and in `Origin` or `Sec-Fetch-Site` otherwise.
    """
    if not _is_loopback(f"//{request.headers.get('host', '')}"):
        raise HTTPException(
            403, "Without a token, the Host must be localhost or a loopback address. Use --token."
        )
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    is_foreign = origin is not None and not _is_loopback(origin)
    if is_foreign or (site == "cross-site" and request.method not in ("GET", "HEAD")):
        raise HTTPException(
            403, "Without a token, pages of other sites may not send requests. Use --token."
        )


def _is_loopback(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
