"""Who may see the dashboard, and under which headers a browser gets it."""

import hmac
import ipaddress
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

MIN_TOKEN = 32
"""Characters of a token that was written whole."""
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def read_or_make_token(path: Path) -> str:
    """The run's token, in a file that only this user can read; the same over restarts."""
    with suppress(FileNotFoundError):
        kept = path.read_text().strip()
        if len(kept) >= MIN_TOKEN:  # else a full disk, or a crash, cut it off
            return kept
    token = secrets.token_urlsafe(32)
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(token)
    temporary.replace(path)
    return token


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def guard(*, host: str, allowed_hosts: Iterable[str], token: str | None) -> Middleware:
    """The middleware of every request: headers, the name it came by, and the token, where one is
    asked for everything (None: for nothing but the control)."""
    names = {"localhost", host.lower(), *(name.lower() for name in allowed_hosts)}

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not _is_known(request.host, names):
            return _refused(
                403,
                "this name is not one of the dashboard's: use localhost or an address, or add "
                "it to monitor.allowed_hosts",
            )
        is_foreign = request.headers.get("Sec-Fetch-Site") == "cross-site"
        if is_foreign and request.headers.get("Sec-Fetch-Mode") != "navigate":
            return _refused(403, "another web page asked for this")
        if token is not None and not is_authorised(request, token):
            if _is_equal(request.query.get("token", ""), token):
                return _remembered(request, token)
            return _refused(401, "open the address that the run printed: it holds the token")
        try:
            response = await handler(request)
        except web.HTTPException as error:
            error.headers.update(HEADERS)
            raise
        if not response.prepared:
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
        return response

    return check


def is_authorised(request: web.Request, token: str) -> bool:
    """By the header `Authorization: Bearer TOKEN`, or by the cookie that a visit left."""
    given = (bearer(request), request.cookies.get(cookie_name(request), ""))
    return any(_is_equal(one, token) for one in given)


def cookie_name(request: web.Request) -> str:
    """Browsers share cookies between all ports of a host, where other runs may be: it has the port
    by which this one is reached (a tunnel's, where there is one)."""
    port = request.host.rpartition(":")[2]
    return f"streamzero_token_{port if port.isdigit() else 80}"


def _is_equal(given: str, token: str) -> bool:
    """In constant time. No token is nobody's."""
    return bool(token) and hmac.compare_digest(
        given.encode(errors="surrogateescape"), token.encode()
    )


def bearer(request: web.Request) -> str:
    kind, _, value = request.headers.get("Authorization", "").partition(" ")
    return value.strip() if kind.lower() == "bearer" else ""


def _is_known(given: str, names: set[str]) -> bool:
    """`given` is a Host header: NAME or NAME:PORT. An address can't be rebound."""
    name = given.rpartition(":")[0] if given.rpartition(":")[2].isdigit() else given
    name = name.strip("[]").lower()
    if name in names:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _refused(status: int, why: str) -> web.Response:
    return web.Response(status=status, text=f"{why}\n", headers=HEADERS)


def _remembered(request: web.Request, token: str) -> web.Response:
    """Leave the token as a cookie, and the address without it. Not `Strict`: who comes by a link on
    another page is redirected without such a cookie. What changes a run wants a header besides."""
    response = web.Response(status=303, headers=HEADERS | {"Location": request.path})
    response.set_cookie(cookie_name(request), token, httponly=True, samesite="Lax", path="/")
    return response
