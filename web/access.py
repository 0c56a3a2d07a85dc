"""Who may talk to the console, until sign-in exists: this machine, through a page of ours.

Loopback is no boundary against web pages: any page in the same browser can send requests to it.
So every request needs a Host that names us (DNS rebinding), and a request that changes something
needs our own token, and our own origin and page where a browser says from which it comes.
A token is bound to a visit, which is told in a cookie: whoever cannot read our answers has neither.
Responses forbid everything that our pages do not need.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
COOKIE = "pointsman_visit"
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


class AccessRefused(Exception):
    """Raised where a request is not served; `status` and the text say why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class TokenRefused(AccessRefused):
    """Raised where nothing but the token is wrong: the page is of an earlier life of this process, or of no visit."""


class Access:
    """The rules, with a secret of this process: after a restart, a form that was open has to be confirmed once more."""

    def __init__(self, hosts: tuple[str, ...] = LOOPBACK_NAMES, secret: bytes | None = None) -> None:
        self._hosts = frozenset(hosts)
        self._secret = secret if secret is not None else secrets.token_bytes(32)

    def check_host(self, host: str) -> None:
        """Refuse a Host that does not name this machine; its port does not matter."""
        name = host.rpartition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
        if name.lower() not in self._hosts:
            raise AccessRefused(421, f"host is {host[:100]!r}, wanted one of {', '.join(sorted(self._hosts))}")

    def new_visit(self) -> str:
        """The value of a new cookie, to which tokens are bound; it is no sign-in."""
        return secrets.token_urlsafe(18)

    def token(self, visit: str) -> str:
        """The token that a form of this visit carries."""
        return hmac.new(self._secret, visit.encode(), hashlib.sha256).hexdigest()

    def check_change(self, headers: Mapping[str, str], visit: str, token: str) -> None:
        """Refuse a change that our own page did not ask for.

        `headers` are those of the request by lower-case name, `visit` is the cookie's value,
        `token` that of the form, or of its JSON twin.
        """
        site = headers.get("sec-fetch-site", "")
        if site and site != "same-origin":
            raise AccessRefused(
                403, f"the request comes from another site ({site[:40]}), wanted this console's own page"
            )
        origin = headers.get("origin", "")
        if origin and origin.partition("://")[2] != headers.get("host", ""):
            raise AccessRefused(403, f"origin is {origin[:100]!r}, wanted this console's own")
        if not visit or not hmac.compare_digest(self.token(visit).encode(), token.encode()):
            raise TokenRefused(
                403, "the form's token is not this visit's: open the page again and send the form from there"
            )
