"""What stands before every page: who asks, whether they may, and whether a form is ours.

A page is a plain function of a Visit; it runs in a thread and may wait for the catalogue. It must never be reached
without a session of the role it needs, nor a POST without the token of its form.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import parse_qsl, quote

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from appliance.catalogue import Catalogue, users
from appliance.catalogue.connection import now
from appliance.console.access import IDLE, Throttle, digest_of, form_token, may, same
from appliance.console.live import Live
from appliance.console.pictures import Pictures
from appliance.console.provider import Provider
from appliance.console.showing import Showing
from appliance.errors import CurieError, Missing, SettingsError
from appliance.log import logger
from appliance.metrics import Metrics
from appliance.settings import Settings

T = TypeVar("T")
LARGEST_FORM = 16 * 1024
TOUCH_S = 60.0  # a session's last visit is written so often at most


@dataclass(frozen=True)
class Desk:
    """What all pages share."""

    settings: Settings
    catalogue: Catalogue
    showing: Showing
    live: Live
    pictures: Pictures
    metrics: Metrics
    throttle: Throttle = field(default_factory=Throttle)
    provider: Provider | None = None

    @property
    def secure(self) -> bool:
        """Whether browsers reach us by https, through a proxy."""
        return (self.settings.console.url or "").startswith("https:")

    @property
    def cookie(self) -> str:
        """The name of the session's cookie; with this prefix no other host or path can set it."""
        return "__Host-curie" if self.secure else "curie"


@dataclass(frozen=True)
class Visitor:
    """A person with a session."""

    name: str
    role: str
    token: str

    def may(self, needed: str) -> bool:
        """Return whether this person may do what needs a role."""
        return may(self.role, needed)

    @property
    def form_token(self) -> str:
        """What the forms of this session carry."""
        return form_token(self.token)


@dataclass(frozen=True)
class Visit:
    """One request: who asks, what for, and what the form says."""

    desk: Desk
    request: Request
    who: Visitor | None = None
    form: Mapping[str, str] = field(default_factory=dict)

    @property
    def visitor(self) -> Visitor:
        """The person; only on pages that need one."""
        assert self.who is not None
        return self.who

    @property
    def path(self) -> Mapping[str, str]:
        """What the address names."""
        return self.request.path_params

    @property
    def query(self) -> Mapping[str, str]:
        """What stands behind the question mark."""
        return self.request.query_params

    @property
    def in_place(self) -> bool:
        """Whether htmx asks, to put the answer into a page that is there."""
        return self.request.headers.get("hx-request") == "true"

    @property
    def address(self) -> str:
        """Where the request comes from."""
        return self.request.client.host if self.request.client else ""

    def show(self, template: str, status: int = 200, **values: object) -> Response:
        """Return a page."""
        return self.desk.showing.page(template, status, who=self.who, at=self.request.url.path, **values)


Page = Callable[[Visit], Response]
Served = Callable[[Request], Awaitable[Response]]


def guarded(desk: Desk, page: Page, role: str) -> Served:
    """Return a page for those of a role; others are sent to log in, or told who may."""

    async def serve(request: Request) -> Response:
        who = await _quietly(desk, lambda: who_asks(desk, request))
        visit = Visit(desk, request, who if isinstance(who, Visitor) else None)
        if isinstance(who, Response):
            return who
        if who is None:
            return to_login(visit)
        if not who.may(role):
            return visit.show("error.html", 403, said=f"This needs the role {role}; {who.name} is {who.role}.")
        return await _answered(visit, page, lambda form: same(form.get("token", ""), who.form_token))

    return serve


def open_to_all(desk: Desk, page: Page, door: Callable[[Request, Mapping[str, str]], bool]) -> Served:
    """Return a page that needs no session; `door` says whether a form was made by us for this browser."""

    async def serve(request: Request) -> Response:
        return await _answered(Visit(desk, request), page, lambda form: door(request, form))

    return serve


async def _answered(visit: Visit, page: Page, is_ours: Callable[[Mapping[str, str]], bool]) -> Response:
    """Read the form of a POST, check it, and let the page answer."""
    if visit.request.method == "POST":
        form = await _form(visit.request)
        foreign = visit.request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")
        if form is None or foreign or not is_ours(form):
            return visit.show("error.html", 403, said="This form is too old, or not ours. Open the page again.")
        visit = Visit(visit.desk, visit.request, visit.who, form)
    found = await _quietly(visit.desk, lambda: page(visit), visit)
    assert isinstance(found, Response)
    return found


async def _quietly(desk: Desk, ask: Callable[[], T], visit: Visit | None = None) -> T | Response:
    """Ask in a thread; whatever goes wrong becomes a page with one sentence, and no traceback."""

    def sorry(status: int, said: str) -> Response:
        who = visit.who if visit else None
        return desk.showing.page("error.html", status, who=who, at="", said=said)

    try:
        return await run_in_threadpool(ask)
    except Missing as error:
        return sorry(404, str(error))
    except SettingsError as error:
        return sorry(409, str(error))
    except CurieError as error:
        return sorry(422, str(error))
    except SQLAlchemyError as error:
        logger().error("page_failed", cause=type(error).__name__)
        return sorry(503, "The catalogue does not answer. `curie doctor` says what to do.")
    except Exception as error:  # noqa: BLE001 - the edge: no page may show a traceback
        logger().error("page_failed", cause=type(error).__name__)
        return sorry(
            500, f"This page failed ({type(error).__name__}). `curie explain` and `curie status` tell the same."
        )


async def _form(request: Request) -> dict[str, str] | None:
    """Return the fields of a form; None where it is none, or too large."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        return None
    body = b""
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > LARGEST_FORM:
                return None
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=32))
    except (ClientDisconnect, ValueError):
        return None


def who_asks(desk: Desk, request: Request) -> Visitor | None:
    """Return who holds the session of a request; None where there is none, or it was idle for too long."""
    token = request.cookies.get(desk.cookie, "")
    if not token:
        return None
    at, digest = now(), digest_of(token)
    with desk.catalogue.read() as connection:
        held = users.session(connection, digest, at)
    if held is None or held.role not in IDLE or at - held.seen_at > IDLE[held.role]:
        return None
    by_hand = "hx-request" not in request.headers and not request.url.path.startswith("/live")
    if by_hand and (at - held.seen_at).total_seconds() > TOUCH_S:
        with desk.catalogue.write() as connection:
            users.seen(connection, digest, at)
    return Visitor(held.name, held.role, token)


def to_login(visit: Visit) -> Response:
    """Send somebody without a session to the page where one begins, and back afterwards; a program is told."""
    if visit.request.url.path.startswith("/api/"):
        return PlainTextResponse("log in first", 401)
    there = f"/login?next={quote(visit.request.url.path)}"
    if visit.in_place:
        return Response(status_code=401, headers={"HX-Redirect": "/login"})
    return RedirectResponse(there if visit.request.method == "GET" else "/login", 303)
