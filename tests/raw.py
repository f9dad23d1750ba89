"""A client made of a socket and bytes, for what no well-behaved client would send, and for exact reads of answers."""

from __future__ import annotations

import json
import socket
import struct
from types import TracebackType
from typing import Self

from tests import PATIENCE_S

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
MASK = b"\x37\xfa\x21\x3d"


def handshake(path: str = "/", *extra: str, host: str = "localhost") -> bytes:
    """A proper handshake request, with extra header lines."""
    lines = [
        f"GET {path} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY.decode()}", "Sec-WebSocket-Version: 13", *extra,
    ]  # fmt: skip
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def mask(payload: bytes, key: bytes = MASK) -> bytes:
    """Exclusive-or of a payload with a masking key."""
    repeated = (key * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(len(payload), "big")


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, key: bytes | None = MASK) -> bytes:
    """A client's frame; `rsv` is the three reserved bits as a number, `key` None leaves it unmasked."""
    size, flag = len(payload), 0x80 if key is not None else 0
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if size < 126:
        head += bytes([flag | size])
    elif size < 65536:
        head += bytes([flag | 126]) + struct.pack("!H", size)
    else:
        head += bytes([flag | 127]) + struct.pack("!Q", size)
    return head + (payload if key is None else key + mask(payload, key))


def text(message: str) -> bytes:
    """A masked text frame."""
    return frame(1, message.encode())


def close(code: int | None = 1000, reason: str = "") -> bytes:
    """A masked Close frame; empty with None."""
    return frame(8, b"" if code is None else struct.pack("!H", code) + reason.encode())


class Answer:
    """A response head and its body, as far as it was framed."""

    def __init__(self, head: bytes, body: bytes) -> None:
        lines = head.split(b"\r\n")
        self.raw_head = head
        self.status = int(lines[0].split(b" ")[1])
        self.headers = [
            (name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines[1:])
        ]
        self.body = body

    def header(self, name: bytes) -> bytes | None:
        """The first value of a field."""
        return next((value for key, value in self.headers if key == name), None)

    def json(self) -> object:
        return json.loads(self.body)


class RawClient:
    """A blocking socket with a buffer. Reads raise EOFError at the end, TimeoutError when nothing comes."""

    def __init__(
        self, port: int, host: str = "127.0.0.1", receive_buffer: int | None = None, source: str | None = None
    ) -> None:
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(PATIENCE_S)
        try:
            if source is not None:
                self.socket.bind((source, 0))
            self.socket.connect((host, port))
        except OSError:
            self.socket.close()
            raise
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    @classmethod
    def unix(cls, path: str) -> Self:
        """A client of a Unix socket."""
        client = cls.__new__(cls)
        client.buffer = b""
        client.socket = socket.socket(socket.AF_UNIX)
        client.socket.settimeout(PATIENCE_S)
        try:
            client.socket.connect(path)
        except OSError:
            client.socket.close()
            raise
        return client

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reset(self) -> None:
        """Close with a TCP reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def half_close(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def read_exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            self._fill()
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def read_until(self, mark: bytes) -> bytes:
        """Everything up to a mark, without it."""
        while mark not in self.buffer:
            self._fill()
        data, _, self.buffer = self.buffer.partition(mark)
        return data

    def read_to_end(self) -> bytes:
        """Everything until the server closes, or resets."""
        try:
            while True:
                self._fill()
        except (EOFError, ConnectionResetError):
            data, self.buffer = self.buffer, b""
            return data

    def read_answer(self, *, head_only: bool = False) -> Answer:
        """One response, framed as RFC 9112 §6.3 says."""
        answer = Answer(self.read_until(b"\r\n\r\n"), b"")
        length = answer.header(b"content-length")
        if head_only or answer.status < 200 or answer.status in (204, 304):
            return answer
        if answer.header(b"transfer-encoding") == b"chunked":
            while size := int(self.read_until(b"\r\n").partition(b";")[0], 16):
                answer.body += self.read_exactly(size)
                assert self.read_exactly(2) == b"\r\n"
            while line := self.read_until(b"\r\n"):
                name, _, value = line.partition(b":")
                answer.headers.append((name.lower(), value.strip()))
        elif length is not None:
            answer.body = self.read_exactly(int(length))
        else:
            answer.body = self.read_to_end()
        return answer

    def open_websocket(self, path: str = "/", *extra: str) -> Answer:
        """Send a handshake and check that it was accepted."""
        self.send(handshake(path, *extra))
        answer = self.read_answer()
        assert answer.status == 101, (answer.raw_head, answer.body)
        assert answer.header(b"sec-websocket-accept") == ACCEPT
        return answer

    def read_frame(self) -> tuple[int, bytes]:
        """One frame of the server: its first byte (FIN, RSV, opcode) and its payload. Checks that it is not masked."""
        first, second = self.read_exactly(2)
        assert not second & 0x80, "a server must not mask (RFC 6455 §5.1)"
        size = second
        if second == 126:
            (size,) = struct.unpack("!H", self.read_exactly(2))
        elif second == 127:
            (size,) = struct.unpack("!Q", self.read_exactly(8))
        return first, self.read_exactly(size)

    def read_text(self) -> str:
        first, payload = self.read_frame()
        assert first == 0x81, f"frame {first:#x} {payload!r}"
        return payload.decode()

    def read_close(self) -> tuple[int | None, str]:
        """A Close frame's code, None when it is empty, and reason."""
        first, payload = self.read_frame()
        assert first == 0x88, f"frame {first:#x} {payload!r}"
        return (struct.unpack("!H", payload[:2])[0] if payload else None), payload[2:].decode()

    def be_closed(self, code: int, reason: str) -> None:
        """Read a Close frame with that code and reason, answer it, and see the connection end."""
        assert self.read_close() == (code, reason)
        self.send(close(code))
        assert self.read_to_end() == b""

    def _fill(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise EOFError(f"the server closed; unread: {self.buffer!r}")
        self.buffer += data
