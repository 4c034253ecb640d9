"""The HTTP of the page: for programs of this machine, and for no page but its own."""

import json
import secrets
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tadp_d2.app.image_shelf import LARGEST
from tadp_d2.app.playground import Playground
from tadp_d2.errors import UserError, reason

ADDRESS = "127.0.0.1"
# Seconds for which a connection may be silent.
_SILENCE = 60
# Bytes of a request in JSON, and of a too large upload that is still read, so that its sender
# gets the message.
_LARGEST_JSON, _DRAINED = 2**17, 8 * LARGEST


class LocalServer(ThreadingHTTPServer):
    """Serves a playground to this machine's browsers.

    Attributes:
        playground: is set before `serve_forever`; the port is taken before models are loaded.
    """

    daemon_threads = True
    playground: Playground

    def __init__(self, port: int):
        """
        Args:
            port: 0 for any that is free.

        Raises:
            UserError: the port is taken.
        """
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            raise UserError(
                f"port {port} cannot be used ({reason(error)}): choose another with --port"
            ) from None
        # Another name would be that of a foreign page whose name was made to lead here.
        self.hosts = {f"{name}:{self.server_port}" for name in (ADDRESS, "localhost")}
        self.url = f"http://{ADDRESS}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no error."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Refused(Exception):
    """Attributes: status, of HTTP; message."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: LocalServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "tadp_d2", ""
    timeout = _SILENCE

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, route: Callable[[str, dict[str, str]], tuple[str, bytes]]) -> None:
        nonce = secrets.token_hex(16)
        try:
            self._check_origin()
            url = urlsplit(self.path)
            kind, body = route(url.path, dict(parse_qsl(url.query, keep_blank_values=True)))
            status = 200
        except (UserError, _Refused) as error:
            status = error.status if isinstance(error, _Refused) else 400
            kind, body = _json({"message": str(error)})
            # What was not read of the request would be taken for the next one.
            self.close_connection = True
        if kind.startswith("text/html"):
            body = body.replace(b"$nonce", nonce.encode())
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; "
            f"frame-ancestors 'none'; connect-src 'self'; img-src 'self' data:; "
            f"style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def _check_origin(self) -> None:
        if self.headers.get("Host") not in self.server.hosts:
            raise _Refused(403, f"this page is at {self.server.url} only")
        origin = self.headers.get("Origin")
        if origin is not None and origin.removeprefix("http://") not in self.server.hosts:
            raise _Refused(403, "another page may not use this one")

    def _get(self, path: str, query: dict[str, str]) -> tuple[str, bytes]:
        playground = self.server.playground
        match path:
            case "/":
                return "text/html; charset=utf-8", playground.page().encode()
            case "/setup":
                return _json(playground.setup())
            case "/images":
                return _json(
                    playground.shelf.page(query.get("dataset", ""), _number(query, "start"))
                )
            case "/image":
                side = _number(query, "side")
                return "image/jpeg", playground.image(query.get("key", ""), side)
            case "/job":
                return _json(playground.jobs.report(query.get("number", "")))
        raise _Refused(404, "there is nothing here")

    def _post(self, path: str, query: dict[str, str]) -> tuple[str, bytes]:
        playground = self.server.playground
        match path:
            case "/upload":
                # A foreign form cannot send this type.
                body = self._body("application/octet-stream", LARGEST)
                return _json({"key": playground.shelf.add(query.get("name", "image"), body)})
            case "/read":
                return _json(playground.read(self._request()))
            case "/play":
                return _json({"number": playground.play(self._request())})
            case "/cancel":
                playground.jobs.cancel(str(self._request().get("number")))
                return _json({})
        raise _Refused(404, "there is nothing here")

    def _request(self) -> dict[str, Any]:
        try:
            request = json.loads(self._body("application/json", _LARGEST_JSON))
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict):
            raise _Refused(400, "the request is no JSON object")
        return request

    def _body(self, kind: str, most: int) -> bytes:
        if self.headers.get("Content-Type") != kind:
            raise _Refused(415, f"the request must be of type {kind}")
        size = self.headers.get("Content-Length", "")
        if not (size.isascii() and size.isdigit()):
            raise _Refused(411, "the request does not state its length")
        if int(size) <= most:
            return self.rfile.read(int(size))
        for start in range(0, min(int(size), _DRAINED), 2**16):
            self.rfile.read(min(2**16, int(size) - start))
        raise _Refused(413, f"this is larger than the {most // 2**10} KiB that are read")

    def log_message(self, format: str, *args: Any) -> None:
        """Visits are not logged."""


def _json(content: Any) -> tuple[str, bytes]:
    return "application/json", json.dumps(content).encode()


def _number(query: dict[str, str], key: str) -> int:
    text = query.get(key, "")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise _Refused(400, f"the request needs a number {key!r}")
    return int(text)
