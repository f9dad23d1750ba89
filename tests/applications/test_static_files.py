"""Files of real frameworks through the middleware that people put in front of them: whole, and compressed."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from asgiws.config.options import Config
from tests.applications.file_apps import make_gradio
from tests.asgi.app_help import error_lines, get
from tests.conftest import RunningServer, Serve
from tests.raw import Answer, RawClient

TEXT = b"All work and no play makes Jack a dull boy.\n" * 5000


def unpack_brotli(data: bytes) -> bytes:
    return bytes(import_module("brotli").decompress(data))


def unpack_zstd(data: bytes) -> bytes:
    return bytes(import_module("zstandard").ZstdDecompressor().decompressobj().decompress(data))


# module, class, its encoding, and how to take that off again
MIDDLEWARE: dict[str, tuple[str, str, bytes, Callable[[bytes], bytes]]] = {
    "starlette": ("starlette.middleware.gzip", "GZipMiddleware", b"gzip", gzip.decompress),
    "brotli-asgi": ("brotli_asgi", "BrotliMiddleware", b"br", unpack_brotli),
    "asgi-gzip": ("asgi_gzip", "GZipMiddleware", b"gzip", gzip.decompress),
    "starlette-compress": ("starlette_compress", "CompressMiddleware", b"gzip", gzip.decompress),
    "zstd-asgi": ("zstd_asgi", "ZstdMiddleware", b"zstd", unpack_zstd),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "jack.txt").write_bytes(TEXT)
    return tmp_path


def fetch(port: int, path: str, encoding: bytes = b"") -> Answer:
    with RawClient(port) as client:
        client.send(get(path, *([f"Accept-Encoding: {encoding.decode()}"] if encoding else [])))
        return client.read_answer()


@pytest.mark.parametrize("name", MIDDLEWARE)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_static_file_is_compressed_by_middleware(
    serve: Serve, folder: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With the default options: StaticFiles hands over the path where pathsend is offered, which these do not know."""
    module, kind, encoding, unpack = MIDDLEWARE[name]
    middleware: Any = getattr(pytest.importorskip(module), kind)
    app = middleware(Starlette(routes=[Mount("/", StaticFiles(directory=folder))]))
    server = serve(app)
    packed = fetch(server.port, "/jack.txt", encoding)
    assert (packed.status, packed.header(b"content-encoding")) == (200, encoding)
    assert len(packed.body) < len(TEXT) / 20
    assert unpack(packed.body) == TEXT
    plain = fetch(server.port, "/jack.txt")
    assert (plain.status, plain.header(b"content-encoding"), plain.body) == (200, None, TEXT)
    server.stop()
    assert error_lines(caplog) == []


def test_middleware_that_knows_files_lets_them_pass_with_the_option(serve: Serve, folder: Path) -> None:
    """Starlette's own passes pathsend on, and leaves the file as it is."""
    server = serve(GZipMiddleware(Starlette(routes=[Mount("/", StaticFiles(directory=folder))])), sendfile=True)
    answer = fetch(server.port, "/jack.txt", b"gzip")
    assert (answer.header(b"content-encoding"), answer.body) == (None, TEXT)


@pytest.mark.applications
@pytest.mark.filterwarnings("ignore")
def test_page_of_gradio_has_its_scripts_and_styles(loop_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A middleware of Gradio passes on nothing but http.response.start and .body."""
    pytest.importorskip("gradio")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    # Not the fixture: Gradio leaves tasks behind. Not a process: its import takes longer than tests wait.
    server = RunningServer(make_gradio(), loop_name, Config.from_options({"port": 0, "graceful_timeout": 2}))
    server.start()
    try:
        check_gradio(server.port)
    finally:
        server.stop()


def check_gradio(port: int) -> None:
    page = fetch(port, "/", b"identity")
    assert page.status == 200
    files = set(re.findall(rb"(?:src|href)=\"(?:\./|/)?((?:assets|static|_app)/[^\"?]+)\"", page.body))
    assert files
    for file in files:
        answer = fetch(port, f"/{file.decode()}", b"gzip, deflate, br, zstd")  # as Chromium does
        assert answer.status == 200, file
        assert answer.body, file
