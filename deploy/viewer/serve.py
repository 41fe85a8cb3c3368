"""The OHIF viewer and the DICOMweb of a PACS under one origin, on loopback: `python -m deploy.viewer.serve --help`.

It only ever reads: nothing but GET is passed on, and nothing outside the PACS's DICOMweb. It knows no users: whoever
reaches the port sees every patient, so what stands before it must ask who they are.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from urllib.parse import unquote

import requests
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

OURS = Path(__file__).parent / "app-config.js"  # in the place of the one that is built in
ROOT = "/dicom-web"
PIECE = 1 << 16
TIMEOUT_S = (5, 120)  # to connect; between two pieces
PASSED_ON = ("content-type", "content-encoding", "content-length")
ONLY_HERE = {  # the page may ask nobody else: no image leaves by way of the viewer
    "Content-Security-Policy": "connect-src 'self' blob: data:; form-action 'self'; frame-ancestors 'self'",
    "Cache-Control": "no-cache",
}


class Viewer(StaticFiles):
    """The built files; every other address is a page of the viewer, which index.html opens."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return the file, or index.html."""
        try:
            found = await super().get_response(path, scope)
        except HTTPException as error:
            if error.status_code != 404 or "." in path.rsplit("/", 1)[-1]:
                raise
            found = await super().get_response("index.html", scope)
        found.headers.update(ONLY_HERE)
        return found


def asked_of(pacs: str, request: Request) -> Response:
    """Pass a GET on to the PACS and its answer back, piece by piece."""
    path = request.scope["raw_path"].decode("ascii").split("?")[0].removeprefix(ROOT)
    if ".." in unquote(path).split("/"):
        return PlainTextResponse("no such address", 404)
    headers = {name: request.headers[name] for name in ("accept", "host") if name in request.headers}
    headers["accept-encoding"] = "identity"
    try:
        answer = requests.get(
            f"{pacs}{path}?{request.url.query}", headers=headers, stream=True, timeout=TIMEOUT_S, allow_redirects=False
        )
    except requests.RequestException as error:
        return PlainTextResponse(f"the PACS does not answer: {type(error).__name__}", 502)
    kept = {name: answer.headers[name] for name in PASSED_ON if name in answer.headers}
    pieces = answer.raw.stream(PIECE, decode_content=False)
    return StreamingResponse(pieces, answer.status_code, kept, background=BackgroundTask(answer.close))


def application(built: Path, pacs: str) -> Starlette:
    """Return the web application: `built` is the unpacked viewer, `pacs` the URL of a DICOMweb."""
    return Starlette(
        routes=[
            Route(f"{ROOT}/{{path:path}}", lambda request: asked_of(pacs, request), methods=["GET"]),
            Route("/app-config.js", lambda _: FileResponse(OURS), methods=["GET"]),
            Mount("/", Viewer(directory=built, html=True)),
        ]
    )


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(description="The OHIF viewer before the DICOMweb of a PACS; it only reads.")
    parser.add_argument("--built", type=Path, default=Path(".build/ohif"), help="what install.sh unpacked")
    parser.add_argument("--pacs", default="http://127.0.0.1:8042/dicom-web", help="URL of the PACS's DICOMweb")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8043)
    parser.add_argument("--fd", type=int, default=None, help="a socket that listens already, instead of host and port")
    given = parser.parse_args()
    if not (given.built / "index.html").exists():
        parser.exit(3, f"no viewer in {given.built}: run deploy/viewer/install.sh {given.built}\n")
    app = application(given.built, given.pacs.rstrip("/"))
    uvicorn.run(app, host=given.host, port=given.port, fd=given.fd, log_level="warning")


if __name__ == "__main__":
    main()
