"""The map of the console: which page is where, and the role that it needs. Start reading here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from appliance.catalogue import Catalogue, flow, processes
from appliance.catalogue.connection import now
from appliance.console import open_doors
from appliance.console.live import MOST, Live
from appliance.console.pages import audit, destinations, federation, login, models, overview, studies, study
from appliance.console.pictures import Pictures
from appliance.console.provider import Provider
from appliance.console.showing import STATIC, Showing
from appliance.console.visit import Desk, Page, guarded, open_to_all, who_asks
from appliance.metrics import Metrics
from appliance.settings import Settings

# address, methods, page, role that it needs
PAGES: tuple[tuple[str, str, Page, str], ...] = (
    ("/", "GET", overview.page, "viewer"),
    ("/parts/overview", "GET", overview.part, "viewer"),
    ("/studies", "GET", studies.page, "viewer"),
    ("/studies/search", "POST", studies.search, "viewer"),
    ("/studies/{study}", "GET", study.page, "viewer"),
    ("/parts/studies/{study}", "GET", study.part, "viewer"),
    ("/studies/{study}/identifiers", "POST", study.identifiers, "operator"),
    ("/studies/{study}/jobs/{job}/picture.png", "GET", study.picture, "viewer"),
    ("/studies/{study}/jobs/{job}/retry", "POST", study.retry, "operator"),
    ("/models", "GET", models.page, "viewer"),
    ("/models/change", "POST", models.change, "administrator"),
    ("/federation", "GET", federation.page, "viewer"),
    ("/destinations", "GET", destinations.page, "viewer"),
    ("/destinations/{name}/test", "POST", destinations.test, "operator"),
    ("/audit", "GET", audit.page, "viewer"),
    ("/logout", "POST", login.leave, "viewer"),
    ("/api/status", "GET", open_doors.status, "viewer"),
    ("/api/studies", "GET", open_doors.studies, "viewer"),
    ("/api/studies/{study}", "GET", open_doors.study, "viewer"),
)
HEADERS = {
    "content-security-policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


@dataclass(frozen=True)
class Parts:
    """What the console is made of."""

    desk: Desk

    def close(self) -> None:
        """End streams and drawing."""
        self.desk.live.close()
        self.desk.pictures.close()


def make_parts(settings: Settings, catalogue: Catalogue) -> Parts:
    """Return the parts for one process."""

    def look() -> object:
        with catalogue.read() as connection:
            beats = [(one["name"], one["healthy"]) for one in processes.listing(connection, now())]
            return flow.newest_event(connection), beats

    oidc, url = settings.console.oidc, settings.console.url
    provider = Provider(oidc, f"{url}/login/back") if oidc else None
    showing = Showing(settings.appliance.name)
    return Parts(
        Desk(settings, catalogue, showing, Live(look), Pictures(), Metrics(settings, catalogue), provider=provider)
    )


def make_app(parts: Parts) -> ASGIApp:
    """Return the ASGI application."""
    desk = parts.desk

    @asynccontextmanager
    async def watching(app: Starlette) -> AsyncIterator[None]:  # noqa: ARG001
        task = asyncio.create_task(desk.live.watch())
        yield
        parts.close()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    door = [
        Route("/login", open_to_all(desk, login.page, login.is_ours), methods=["GET"]),
        Route("/login", open_to_all(desk, login.enter, login.is_ours), methods=["POST"]),
        Route("/login/provider", open_to_all(desk, login.to_provider, _never), methods=["GET"]),
        Route("/login/back", open_to_all(desk, login.from_provider, _never), methods=["GET"]),
        Route("/healthz", open_to_all(desk, open_doors.healthz, _never), methods=["GET"]),
        Route("/metrics", open_to_all(desk, open_doors.metrics, _never), methods=["GET"]),
        Route("/live", _live(desk)),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    pages = [Route(path, guarded(desk, page, role), methods=[method]) for path, method, page, role in PAGES]
    nowhere = {404: _nowhere(desk), 405: _nowhere(desk)}
    return Headed(Starlette(routes=[*door, *pages], lifespan=watching, exception_handlers=nowhere))


def _never(request: Request, form: Mapping[str, str]) -> bool:  # noqa: ARG001
    """No form is ours where none is taken."""
    return False


def _nowhere(desk: Desk):  # type: ignore[no-untyped-def]
    async def nowhere(request: Request, error: Exception) -> Response:  # noqa: ARG001
        return desk.showing.page("error.html", 404, who=None, at="", said="There is no such page.")

    return nowhere


def _live(desk: Desk):  # type: ignore[no-untyped-def]
    async def live(request: Request) -> Response:
        async def may_still() -> bool:
            return await run_in_threadpool(who_asks, desk, request) is not None

        if not await may_still():
            return PlainTextResponse("log in first", 401)
        if desk.live.listeners >= MOST:
            return PlainTextResponse("too many pages listen", 503)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(desk.live.stream(may_still), media_type="text/event-stream", headers=headers)

    return live


class Headed:
    """Puts the headers that keep a page to itself on every answer, errors among them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        await self._app(scope, receive, headed)
