"""An S3 server of a few lines, which answers as a test says."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

Answer = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Answer]]:
    """A server on this machine that S3 requests go to; it answers by the list's last function."""
    answers: list[Answer] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words: object) -> None:
            pass

        def do_GET(self) -> None:
            answers[-1](self)

        do_HEAD = do_GET

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        threading.Thread(target=served.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{served.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        yield answers
        served.shutdown()


def refuse(status: int, code: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        body = f"<Error><Code>{code}</Code><Message>told by the test</Message></Error>".encode()
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.send_header("Content-Type", "application/xml")
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)

    return answer


def give(data: bytes) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        begin, end = 0, len(data)
        span = request.headers.get("Range")
        if span:
            first, last = span.removeprefix("bytes=").split("-")
            begin, end = int(first), int(last) + 1
        request.send_response(206 if span else 200)
        request.send_header("Content-Length", str(end - begin))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(data[begin:end])

    return answer
