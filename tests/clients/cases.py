"""The requests and the dialogues that are put to two servers."""

from __future__ import annotations

from dataclasses import dataclass

from tests.raw import close, frame, text

# ---- HTTP


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    """A request in HTTP/1.1, with a length when it has a body."""
    lines = [f"{line} HTTP/1.1", "Host: localhost", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("utf-8") + b"\r\n\r\n" + body


def chunks(*pieces: bytes) -> bytes:
    """A body in chunks."""
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (*pieces, b""))


JSON = "Content-Type: application/json"
REQUESTS = {
    "get": request("GET /items/3?q=a%20b&limit=5"),
    "get-no-query": request("GET /items/3"),
    "get-invalid-path": request("GET /items/three"),
    "get-invalid-query": request("GET /items/3?limit=101"),
    "head-of-get": request("HEAD /items/3"),
    "nowhere": request("GET /nowhere"),
    "method-not-allowed": request("DELETE /items/3"),
    "unknown-method": request("BREW /items/3"),
    "trailing-slash": request("GET /items/3/"),
    "post-json": request("POST /items", JSON, body=b'{"name": "cup", "price": 1.5, "tags": ["a"]}'),
    "post-json-in-chunks": request("POST /items", JSON, "Transfer-Encoding: chunked") + chunks(
        b'{"name": ', b'"cup", ', b'"price": 1.5}'
    ),
    "post-invalid-json": request("POST /items", JSON, body=b'{"name": '),
    "post-invalid-item": request("POST /items", JSON, body=b'{"name": "", "price": "x"}'),
    "post-nothing": request("POST /items"),
    "put-upload": request("PUT /upload", body=b"x" * 300_000),
    "put-upload-empty": request("PUT /upload"),
    "put-expecting": request("PUT /upload", "Content-Length: 0", "Expect: 100-continue"),
    "http-headers": request(
        "GET /headers", "User-Agent: tester/1", "X-Many: 1", "X-Many: 2", "Cookie: session=abc; b=c"
    ),
    "headers-twice": request("GET /headers", "x-many:1", "X-MANY:\t2 ", "Cookie: session=ü"),
    "no-token": request("GET /token"),
    "token": request("GET /token", "X-Token: secret"),
    "stream": request("GET /stream"),
    "file-like": request("GET /file-like"),
    "head-of-stream": request("HEAD /stream"),
    "file": request("GET /file"),
    "file-range": request("GET /file", "Range: bytes=10-19"),
    "file-two-ranges-bad": request("GET /file", "Range: bytes=999999-"),
    "cookies": request("GET /cookies"),
    "204": request("GET /empty"),
    "304": request("GET /unchanged"),
    "redirect": request("GET /elsewhere"),
    "http-handled-exception": request("GET /teapot"),
    "http-exception": request("GET /fails"),
    "exception-in-stream": request("GET /fails-late"),
    "background": request("GET /background"),
    "where-am-i": request("GET /where/a/b?c=d"),
    "where-escaped": request("GET /where/gr%C3%BC%C3%9Fe%2Fx%20y?q=%20+%C3%BC"),
    "where-escaped-twice": request("GET /where/a%252Fb"),
    "where-bad-utf-8": request("GET /where/a%FFb"),
    "where-dots": request("GET /where/../a/./b//c"),
    "where-semicolon": request("GET /where/a;b=c?d;e&f=?/g"),
    "where-no-path": b"GET http://localhost/where/x?y HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "where-lower-case-method": b"get /where/x HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "sub-application-http": request("GET /sub/where"),
    "sub-application-missing": request("GET /sub/nowhere"),
    "options": request("OPTIONS /items/3", "Origin: http://localhost"),
    "openapi": request("GET /openapi.json"),
    "http-1.0": b"GET /items/3 HTTP/1.0\r\n\r\n",
    "http-1.0-keep-alive": b"GET /items/3 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "http-1.0-stream": b"GET /file-like HTTP/1.0\r\n\r\n",
    "connection-close": request("GET /items/3", "Connection: close"),
    "upgrade-to-something-else": request("GET /items/3", "Connection: Upgrade", "Upgrade: h2c"),
}  # fmt: skip


# ---- WebSocket


@dataclass(frozen=True)
class Dialogue:
    """A handshake and what follows it: bytes are sent, a number is of frames to read, None is to vanish.

    Behind the last step everything is read, and a Close is answered with the same. `ends` is how many things the
    application writes down then.
    """

    path: str
    steps: tuple[bytes | int | None, ...] = ()
    headers: tuple[str, ...] = ()
    ends: int = 0


DIALOGUES = {
    "echo": Dialogue("/ws/echo", (text("a"), 1, frame(2, b"\xff"), 1, text("x" * 70_000), 1, close(1000)), ends=1),
    "echo-burst": Dialogue("/ws/echo", (text("a") + frame(2, b"b") + text("") + close(1000, "bye"),), ends=1),
    "echo-fragments": Dialogue(
        "/ws/echo", (frame(1, b"a", fin=False) + frame(9, b"p") + frame(0, b"b"), 2, close(1001)), ends=1
    ),
    "ping": Dialogue("/ws/echo", (frame(9, b"p" * 125), 1, frame(10, b"unasked"), text("a"), 1, close()), ends=1),
    "close-1000": Dialogue("/ws/echo", (close(1000, "done"),), ends=1),
    "close-4999": Dialogue("/ws/echo", (close(4999, "ü" * 61),), ends=1),
    "close-without-code": Dialogue("/ws/echo", (close(None),), ends=1),
    "close-1005": Dialogue("/ws/echo", (close(1005),), ends=1),
    "close-bad-length": Dialogue("/ws/echo", (frame(8, b"\x03"),), ends=1),
    "vanish": Dialogue("/ws/echo", (text("a"), 1, None), ends=1),
    "vanish-at-once": Dialogue("/ws/echo", (None,), ends=1),
    "unmasked": Dialogue("/ws/echo", (frame(1, b"a", key=None),), ends=1),
    "reserved-bit": Dialogue("/ws/echo", (frame(1, b"a", rsv=4),), ends=1),
    "reserved-opcode": Dialogue("/ws/echo", (frame(3, b"a"),), ends=1),
    "bad-utf-8": Dialogue("/ws/echo", (frame(1, b"\xff"),), ends=1),
    "too-big": Dialogue("/ws/echo", (b"\x82\xff" + (2**25).to_bytes(8, "big") + bytes(4),), ends=1),
    "violation-behind-a-message": Dialogue("/ws/echo", (text("a") + frame(3),), ends=1),
    "path-and-query": Dialogue("/ws/rooms/red%20room?name=Ada", (1, text("hi"), 1, close())),
    "path-converted": Dialogue("/ws/items/5"),
    "path-invalid": Dialogue("/ws/items/five"),
    "headers-and-cookie": Dialogue("/ws/headers", headers=("X-Token: secret", "Cookie: session=abc")),
    "no-headers": Dialogue("/ws/headers"),
    "dependency-raises": Dialogue("/ws/secure"),
    "dependency": Dialogue("/ws/secure?token=abc"),
    "exception-with-a-code": Dialogue("/ws/late", (text("x"),)),
    "json": Dialogue("/ws/json", (text('{"a": [1]}'), 1, text("[]"), 1, close()), ends=1),
    "json-invalid": Dialogue("/ws/json", (text("{"),)),
    "application-closes": Dialogue("/ws/close?code=4000&reason=own"),
    "application-closes-1000": Dialogue("/ws/close"),
    "application-closes-1006": Dialogue("/ws/close?code=1006"),
    "application-closes-long-reason": Dialogue("/ws/close?reason=" + "r" * 124),
    "refused": Dialogue("/ws/refuse"),
    "denied": Dialogue("/ws/deny"),
    "subprotocol": Dialogue("/ws/subprotocol", headers=("Sec-WebSocket-Protocol: v1.chat, v2.chat",)),
    "subprotocol-not-offered": Dialogue("/ws/subprotocol"),
    "returns": Dialogue("/ws/returns"),
    "returns-early": Dialogue("/ws/returns-early"),
    "raises": Dialogue("/ws/fails"),
    "raises-early": Dialogue("/ws/fails-early"),
    "handled-exception": Dialogue("/ws/teapot"),
    "push": Dialogue("/ws/push?count=30"),
    "where": Dialogue("/ws/where?a=b"),
    "sub-application": Dialogue("/sub/ws/Ada"),
    "missing": Dialogue("/ws/nowhere"),
    "http-route": Dialogue("/items/3"),
}
