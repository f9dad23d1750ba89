"""The encoders of outgoing messages: those that the connections of a worker share, and those of one connection."""

from __future__ import annotations

import asyncio

from asgiws.protocol.websocket.deflate import Agreement, Deflater, DeflateSettings
from asgiws.protocol.websocket.encoder import Encoder

__all__ = ["Encoders"]


class Encoders:
    """Makes encoders, and keeps the shared ones."""

    __slots__ = ("_in_progress", "_settings", "_shared", "plain")

    def __init__(self, settings: DeflateSettings) -> None:
        self._settings = settings
        self._shared: dict[int, Encoder] = {}
        """By the window bits of their compressor; 0 for no compression."""
        self.plain = self.encoder_for(None)
        """Encodes without compression."""
        self._in_progress: dict[tuple[Encoder, int], tuple[str | bytes, asyncio.Future[bytes]]] = {}
        """Large messages that a thread compresses for shared encoders, by encoder and identity of the message."""

    def encoder_for(self, agreement: Agreement | None) -> Encoder:
        """Return the encoder for what was negotiated: a shared one, or one with a window of its own."""
        settings = self._settings
        if agreement is not None and agreement.server_takeover:
            return Encoder(settings, Deflater(settings, agreement.server_window_bits, takeover=True), memo=False)
        bits = 0 if agreement is None else agreement.server_window_bits
        encoder = self._shared.get(bits)
        if encoder is None:
            deflater = Deflater(settings, bits, takeover=False) if bits else None
            self._shared[bits] = encoder = Encoder(settings, deflater, memo=True)
        return encoder

    async def encode_large(self, encoder: Encoder, message: str | bytes, loop: asyncio.AbstractEventLoop) -> bytes:
        """Compress a large message in a thread; senders of the same message wait for the same thread."""
        if not encoder.shared:
            frame = await loop.run_in_executor(None, encoder.encode_alone, message)
            encoder.remember(message, frame)
            return frame
        key = encoder, id(message)
        if key not in self._in_progress:
            future = loop.run_in_executor(None, encoder.encode_alone, message)
            self._in_progress[key] = message, future

            def on_done(done: asyncio.Future[bytes]) -> None:
                del self._in_progress[key]
                if not done.cancelled() and done.exception() is None:
                    encoder.remember(message, done.result())

            future.add_done_callback(on_done)
        # A sender that is cancelled leaves the others their frame.
        return await asyncio.shield(self._in_progress[key][1])

    def compressed(self) -> list[tuple[int, int]]:
        """Return the bytes before and after compression of each shared encoder."""
        return [(encoder.compressed_from, encoder.compressed_to) for encoder in self._shared.values()]

    def forget(self) -> None:
        """Clear the memos of the shared encoders."""
        for encoder in self._shared.values():
            encoder.forget()
