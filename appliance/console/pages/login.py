"""The door: a name and a password become a session, or a login by OpenID Connect does."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from appliance.catalogue import events, users
from appliance.catalogue.connection import now
from appliance.console.access import LASTS, digest_of, new_token, same
from appliance.console.provider import begun_from
from appliance.console.visit import Desk, Visit
from appliance.errors import CurieError, Missing
from appliance.passwords import LONGEST, NAME, is_right

DOOR = "curie_door"  # cookie that binds the form of the door to the browser that was given it
BEGUN = "curie_begun"  # cookie of a login at the identity provider that is under way
VERIFYING = threading.Semaphore(2)  # 64 MiB each


def is_ours(request: Request, form: Mapping[str, str]) -> bool:
    """Return whether the form of the door was given to this browser."""
    held = request.cookies.get(DOOR, "")
    return bool(held) and same(form.get("token", ""), held)


def page(visit: Visit) -> Response:
    """Show the door; where nobody has an account yet, the command that makes one."""
    return _door(visit)


def _door(visit: Visit, status: int = 200, said: str = "") -> Response:
    token = visit.request.cookies.get(DOOR) or new_token()
    with visit.desk.catalogue.read() as connection:
        anybody = users.any_account(connection)
    wanted = _local(visit.form.get("next") or visit.query.get("next", "/"))
    oidc = visit.desk.settings.console.oidc
    provider = oidc.title if oidc else ""
    shown = visit.show("login.html", status, token=token, next=wanted, said=said, anybody=anybody, provider=provider)
    _set(shown, visit.desk, DOOR, token)
    return shown


def _local(path: str) -> str:
    """Return an address of this console: never one that leads away."""
    plain = path.startswith("/") and not path.startswith(("//", "/\\", "/login")) and path.isprintable()
    return path if plain and ":" not in path else "/"


def enter(visit: Visit) -> Response:
    """Let somebody in, or say no without saying which of both was wrong."""
    name, password = visit.form.get("name", "").strip().lower()[:64], visit.form.get("password", "")
    at = time.monotonic()
    wait_s = visit.desk.throttle.begin(name, visit.address, at)
    if wait_s:
        said = f"Too many tries. Wait {wait_s / 60:.0f} minutes."
        if visit.desk.throttle.first_told(visit.address, at):
            return _refused(visit, name, "too many tries", 429, said)
        return _door(visit, 429, said)
    with visit.desk.catalogue.read() as connection:
        hashed = users.password_hash(connection, name) if NAME.fullmatch(name) else None
    with VERIFYING:
        right = len(password) <= LONGEST and is_right(hashed, password)
    if not right:
        known = name if hashed else ""  # a name that is none may be a password in the wrong field
        return _refused(
            visit, known, "wrong password" if hashed else "no such account", 401, "Name or password is wrong."
        )
    visit.desk.throttle.succeeded(name, visit.address)
    answer = RedirectResponse(_local(visit.form.get("next", "/")), 303)
    open_session(visit, answer, name, "")
    return answer


def _refused(visit: Visit, name: str, why: str, status: int, said: str) -> Response:
    with visit.desk.catalogue.write() as connection:
        events.record(connection, "login_refused", who=name, address=visit.address, reason=why)
    return _door(visit, status, said)


def open_session(visit: Visit, answer: Response, name: str, role: str) -> None:
    """Begin a session, put it on record, and give the browser its token. `role` "": as the account says."""
    token, at = new_token(), now()
    with visit.desk.catalogue.write() as connection:
        users.open_session(connection, digest_of(token), name, role, at, LASTS)
        events.record(connection, "login", who=name, address=visit.address)
    _set(answer, visit.desk, visit.desk.cookie, token)


def to_provider(visit: Visit) -> Response:
    """Send the browser to the identity provider; it keeps what its return must match."""
    provider = visit.desk.provider
    if provider is None:
        raise Missing("no identity provider is set: [console.oidc]")
    url, begun = provider.begin()
    answer = RedirectResponse(url, 303)
    # Lax: it comes back from another site
    answer.set_cookie(BEGUN, begun.text, 600, path="/login", secure=visit.desk.secure, httponly=True, samesite="lax")
    return answer


def from_provider(visit: Visit) -> Response:
    """Let in whom the provider vouches for, where one of their groups has a role here."""
    provider, begun = visit.desk.provider, begun_from(visit.request.cookies.get(BEGUN, ""))
    if provider is None or begun is None or not same(visit.query.get("state", ""), begun.state):
        raise CurieError("this login was not begun in this browser, or too long ago. Begin again at /login")
    code = visit.query.get("code", "")
    if not code:
        return _refused(visit, "", "the provider refused", 401, "The identity provider did not let you in.")
    person = provider.finish(begun, code)
    if not person.role:
        return _refused(visit, person.name, "no role", 403, f"{person.name} is in no group that may open this console.")
    # a page, not a redirect: after a redirect from elsewhere a browser would keep the new cookie back
    answer = visit.show("entered.html")
    open_session(visit, answer, person.name, person.role)
    answer.delete_cookie(BEGUN, path="/login", secure=visit.desk.secure, httponly=True, samesite="lax")
    return answer


def leave(visit: Visit) -> Response:
    """End the session."""
    with visit.desk.catalogue.write() as connection:
        users.end_session(connection, digest_of(visit.visitor.token))
        events.record(connection, "logout", who=visit.visitor.name)
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(visit.desk.cookie, path="/", secure=visit.desk.secure, httponly=True, samesite="strict")
    return answer


def _set(answer: Response, desk: Desk, name: str, value: str) -> None:
    answer.set_cookie(name, value, path="/", secure=desk.secure, httponly=True, samesite="strict")
