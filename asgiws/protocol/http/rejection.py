"""Responses of the server to requests that break a rule, with the fields that their status requires."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from asgiws.protocol.errors import LIMIT_STATUSES, Violation
from asgiws.protocol.http.fields import Header
from asgiws.protocol.http.response import STATUS_LINES, encode_fields

__all__ = ["encode_rejection"]

# RFC 9110 §15.5.6, §15.5.22, RFC 6455 §4.4
_FIELDS_OF_STATUS: Final[Mapping[int, tuple[Header, ...]]] = {
    405: ((b"allow", b"GET"),),
    426: ((b"upgrade", b"websocket"), (b"sec-websocket-version", b"13")),
}


def encode_rejection(violation: Violation, retry_after_s: int = 1) -> bytes:
    """Encode the whole response: a line of plain text; the connection ends after it.

    `retry_after_s` is for clients that exceed a limit.
    """
    code = violation.rule.code
    body = f"{violation.rule.name}: {violation.reason}\n".encode()
    fields = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
    fields += _FIELDS_OF_STATUS.get(code, ())
    if code in LIMIT_STATUSES:  # RFC 6585 §4, RFC 9110 §15.6.4
        fields.append((b"retry-after", b"%d" % retry_after_s))
    # RFC 9110 §7.8: a sender of Upgrade MUST also send an "Upgrade" connection option
    fields.append((b"connection", b"upgrade, close" if code == 426 else b"close"))
    return b"%s%s\r\n%s" % (STATUS_LINES[code], encode_fields(fields), body)
