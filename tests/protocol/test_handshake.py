"""The opening handshake: what is a proper one, how each fault is refused, and what a 101 may hold."""

from __future__ import annotations

import sys
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgiws.protocol.errors import Violation
from asgiws.protocol.http.fields import is_token, printable
from asgiws.protocol.websocket.handshake import (
    ExtensionOffer,
    Handshake,
    accept_value,
    check_handshake,
    encode_accept,
    origin_allowed,
    parse_extensions,
)
from tests.protocol.http_help import accepted, parse, refused, request, table

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # of RFC 6455 §1.3
FIELDS = {
    "upgrade": b"Upgrade: websocket",
    "connection": b"Connection: Upgrade",
    "key": b"Sec-WebSocket-Key: " + KEY,
    "version": b"Sec-WebSocket-Version: 13",
}


def check(*more: bytes, line: bytes = b"GET /chat HTTP/1.1", **changed: bytes | None) -> Handshake | Violation:
    """Check a proper handshake with one field changed, or left out by None, and with `more` fields."""
    fields = {**FIELDS, **changed}
    head = accepted(parse(request(*[field for field in fields.values() if field], *more, line=line)))
    assert b"websocket" in head.upgrade
    return check_handshake(head)


def proper(*more: bytes, **changed: bytes) -> Handshake:
    result = check(*more, **changed)
    assert isinstance(result, Handshake), result
    return result


# ---- what a proper handshake says


def test_handshake_of_the_rfc() -> None:
    """RFC 6455 §1.2."""
    more = b"Origin: http://example.com", b"Sec-WebSocket-Protocol: chat, superchat"
    assert proper(*more) == Handshake(KEY, ["chat", "superchat"], [], b"http://example.com")
    assert proper() == Handshake(KEY, [], [], None)


@table("changed", {
    "connection-list": {"connection": b"Connection: keep-alive, Upgrade"},
    "connection-case": {"connection": b"connection: UPGRADE"},
    "upgrade-case": {"upgrade": b"Upgrade: WebSocket"},
    "upgrade-list": {"upgrade": b"Upgrade: h2c, websocket"},
    "zero-length": {"key": FIELDS["key"] + b"\r\nContent-Length: 0"},
})  # fmt: skip
def test_handshake_may_be_spelled_in_these_ways(changed: dict[str, bytes]) -> None:
    """RFC 6455 §4.2.1: Upgrade and Connection hold tokens without case."""
    assert proper(**changed).key == KEY


@pytest.mark.parametrize("value", [b"h2c", b"websocket2", b"web socket", b""])
def test_other_upgrades_are_not_for_websocket(value: bytes) -> None:
    """RFC 9110 §7.8."""
    assert b"websocket" not in accepted(parse(request(b"Connection: Upgrade", b"Upgrade: " + value))).upgrade


@table("values,subprotocols", {
    "one": ([b"chat"], ["chat"]),
    "list": ([b"b,a ,\tc"], ["b", "a", "c"]),
    "several-fields": ([b"b", b"a, c"], ["b", "a", "c"]),
    "empty-elements": ([b",a,,", b""], ["a"]),
    "case-tells-apart": ([b"a, A"], ["a", "A"]),
    "odd-names": ([b"__proto__, constructor, v1.json"], ["__proto__", "constructor", "v1.json"]),
})  # fmt: skip
def test_subprotocols_are_one_list_in_order_of_preference(values: list[bytes], subprotocols: list[str]) -> None:
    """RFC 6455 §11.3.4: the field may come several times."""
    assert proper(*[b"Sec-WebSocket-Protocol: " + value for value in values]).subprotocols == subprotocols


def test_ten_thousand_subprotocols_are_read() -> None:
    """RFC 6455 §4.1: names are unique, and to know so costs no more than reading them."""
    names = [f"{index:x}" for index in range(10000)]
    assert proper(b"Sec-WebSocket-Protocol: " + ",".join(names).encode()).subprotocols == names


# ---- what is refused


@pytest.mark.parametrize("method", ["POST", "HEAD", "OPTIONS"])
def test_handshake_by_another_method_is_refused(method: str) -> None:
    """RFC 6455 §4.1, item 2: the method MUST be GET."""
    result = check(line=f"{method} /chat HTTP/1.1".encode())
    refused(result, "handshake-method", 405, f"handshake by {method}", "allowed: GET")


def test_handshake_in_http_1_0_is_refused() -> None:
    """RFC 6455 §4.1, item 2: the version MUST be at least 1.1."""
    result = check(line=b"GET /chat HTTP/1.0")
    refused(result, "handshake-http-version", 400, "HTTP/1.0", "allowed: HTTP/1.1")


@pytest.mark.parametrize("field", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
def test_handshake_with_a_body_is_refused(field: bytes) -> None:
    """RFC 6455 §4.1: what follows a handshake are frames."""
    refused(check(field), "handshake-body", 400, "with a body", "none is allowed")


@pytest.mark.parametrize("field", [None, b"Connection: keep-alive", b"Connection: upgraded", b"Connection:"])
def test_handshake_without_connection_upgrade_is_refused(field: bytes | None) -> None:
    """RFC 6455 §4.2.1, item 4."""
    result = check(connection=field)
    refused(result, "handshake-connection", 400, "without Connection: Upgrade", "both are needed")


@table("fields,seen", {
    "missing": ([], "none"), "8": ([b"8"], "8"), "12": ([b"12"], "12"), "list": ([b"13, 8"], "13, 8"),
    "twice": ([b"13", b"13"], "13, 13"), "zero-before": ([b"013"], "013"), "plus": ([b"+13"], "+13"),
    "empty": ([b""], ""), "superscript": ([b"1\xb3"], "1\\xb3"),
})  # fmt: skip
def test_version_other_than_13_is_refused_with_426(fields: list[bytes], seen: str) -> None:
    """RFC 6455 §4.2.2, item 4: an answer such as 426 with the version understood."""
    result = check(*[b"Sec-WebSocket-Version: " + value for value in fields], version=None)
    refused(result, "websocket-version", 426, f"Sec-WebSocket-Version: {seen}, ", "allowed: 13")


@table("values", {
    "missing": [], "empty": [b""], "twice": [KEY, KEY], "list": [KEY + b", " + KEY],
    "15-bytes": [b"AAAAAAAAAAAAAAAAAAAA"], "17-bytes": [b"AAAAAAAAAAAAAAAAAAAAAAA="],
    "18-bytes": [b"A" * 24], "32-bytes": [b"A" * 43 + b"="], "no-padding": [KEY[:-2]], "one-padding": [KEY[:-1]],
    "three-paddings": [b"A" * 21 + b"==="], "padding-first": [b"==" + KEY[:-2]], "padding-inside": [b"A=" * 12],
    "url-safe": [b"_" + KEY[1:]], "space-inside": [KEY[:8] + b" " + KEY[9:]], "8-bit": [b"\xe9" + KEY[1:]],
    "text": [b"the sample nonce"],
})  # fmt: skip
def test_key_that_is_not_16_bytes_in_base64_is_refused(values: list[bytes]) -> None:
    """RFC 6455 §4.2.1, item 5."""
    result = check(*[b"Sec-WebSocket-Key: " + value for value in values], key=None)
    seen = printable(b", ".join(values)) if values else "none"
    refused(result, "handshake-key", 400, f"Sec-WebSocket-Key: {seen}, ", "allowed: one of 16 bytes in base64")


@table("values", {
    "twice": [b"a, b, a"], "twice-in-two-fields": [b"a", b"a"], "space": [b"a b"], "8-bit": [b"caf\xc3\xa9"],
    "quoted": [b'"a"'], "slash": [b"a/b"], "parameter": [b"a;b=c"], "x85": [b"a\x85b"],
})  # fmt: skip
def test_subprotocols_other_than_unique_tokens_are_refused(values: list[bytes]) -> None:
    """RFC 6455 §4.1, item 10: non-empty, of characters U+0021 to U+007E without separators, all unique."""
    result = check(*[b"Sec-WebSocket-Protocol: " + value for value in values])
    seen = f"subprotocols {printable(values[-1])}, "
    refused(result, "bad-subprotocol", 400, seen, "allowed: tokens, each named once")


# ---- extensions


def offers(*values: bytes) -> list[tuple[str, dict[str, str | None]]]:
    return [(offer.name, dict(offer.parameters)) for offer in parse_extensions(list(values))]


@table("values,found", {
    "none": ([], []),
    "one": ([b"permessage-deflate"], [("permessage-deflate", {})]),
    "parameters": ([b"x; a; b=1 ;c = d"], [("x", {"a": None, "b": "1", "c": "d"})]),
    "several": ([b"x; a=1, x;a=2,y"], [("x", {"a": "1"}), ("x", {"a": "2"}), ("y", {})]),
    "several-fields": ([b"x", b"y"], [("x", {}), ("y", {})]),
    "no-case": ([b"Permessage-Deflate; Client_Max"], [("permessage-deflate", {"client_max": None})]),
    "quoted": ([b'x; a="10"'], [("x", {"a": "10"})]),
    "quoted-separators": ([b'x; a="1,2;3", y'], [("y", {})]),
    "quoted-pair": ([b'x; a="\\1\\0"'], [("x", {"a": "10"})]),
    "quoted-pair-quote": ([b'x; a="\\"", y'], [("y", {})]),
    "quoted-pair-backslash": ([b'x; a="1\\\\0", y'], [("y", {})]),
    "quoted-pair-at-end": ([b'x; a="1\\"', b"y"], [("y", {})]),
    "quoted-pair-backslash-last": ([b'x; a="10\\\\", y'], [("y", {})]),
    "odd-names": ([b"constructor; __proto__, __proto__; toString=hasOwnProperty"],
                  [("constructor", {"__proto__": None}), ("__proto__", {"tostring": "hasOwnProperty"})]),
})  # fmt: skip
def test_extensions_are_parsed(values: list[bytes], found: list[tuple[str, dict[str, str | None]]]) -> None:
    """RFC 6455 §9.1: extension-list, where a quoted value is a token after unescaping."""
    assert offers(*values) == found


def test_parameters_keep_order_and_duplicates() -> None:
    """RFC 7692 §7.1: an offer that names a parameter twice is to be declined, so both have to be seen."""
    assert parse_extensions([b"x; b=1; a; b=2"]) == [ExtensionOffer("x", (("b", "1"), ("a", None), ("b", "2")))]


@table("element", {
    "empty": b"", "space": b" ", "name-space": b"a b", "name-8-bit": b"\xe9", "name-quoted": b'"a"',
    "name-slash": b"a/b", "name-missing": b"; a", "parameter-missing": b"x;", "parameter-empty": b"x; ; a",
    "value-missing": b"x; a=", "value-8-bit": b"x; a=\xe9", "value-space": b"x; a=b c", "value-only": b"x; =b",
    "two-equals": b"x; a=b=c", "quoted-empty": b'x; a=""', "quoted-space": b'x; a="b c"',
    "quoted-twice": b'x; a="b""c"', "text-after-quote": b'x; a="b"c', "text-before-quote": b'x; a=b"c"',
    "name-with-value": b"x=1", "one-of-two": b"x; a=1; b=(", "list-in-quotes": b'x; a="b, y; c="d',
    "backslash-outside-quotes": b'x; a="b"; c=\\',
})  # fmt: skip
def test_malformed_element_is_left_out(element: bytes) -> None:
    """RFC 6455 §9.1: as if it were not offered; those beside it stay."""
    assert offers(b"first; a=1, " + element) == [("first", {"a": "1"})]
    assert offers(element + b", last", b"next") == [("last", {}), ("next", {})]


@pytest.mark.parametrize("element", [b'x; a="b', b'x; a="b\\"', b'"', b'x; a="""'])
def test_quote_without_end_takes_the_rest_of_its_field_only(element: bytes) -> None:
    """RFC 6455 §9.1."""
    assert offers(b"first, " + element + b", last", b"next") == [("first", {}), ("next", {})]


@pytest.mark.parametrize("size", [2048, 60_000])
@pytest.mark.parametrize(
    "element",
    ["a;b=c,", "permessage-deflate;b=c,", "permessage-deflate,", ";a", 'b="', ","],
    ids=["other", "parameters", "offers", "parameter", "quotes", "commas"],
)
def test_offer_of_any_size_costs_a_bounded_number_of_calls(element: str, size: int) -> None:
    """RFC 6455 §9.1: an offer may be declined. 60 KB of some held the loop for 48 ms, in 130,000 calls."""
    offer = f"permessage-deflate{element * (size // len(element))}"[:size].encode()
    field = b"Sec-WebSocket-Extensions: " + offer
    head = accepted(parse(request(*FIELDS.values(), field, line=b"GET /chat HTTP/1.1")))
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        check_handshake(head)
    finally:
        sys.setprofile(None)
    assert calls < 20_000


def test_extensions_beside_the_one_that_is_known_are_left_out() -> None:
    checked = proper(b"Sec-WebSocket-Extensions: a; b=c, Permessage-Deflate; x, d", b"Sec-WebSocket-Extensions: e")
    assert checked.extensions == [ExtensionOffer("permessage-deflate", (("x", None),))]


PARAMETER_NAMES = st.text("abc09-_.", min_size=1, max_size=5)
OFFERS = st.lists(
    st.builds(
        ExtensionOffer,
        PARAMETER_NAMES,
        st.lists(st.tuples(PARAMETER_NAMES, st.none() | PARAMETER_NAMES), max_size=4).map(tuple),
    ),
    max_size=5,
)


@given(OFFERS, st.sampled_from(["%s", '"%s"', ' "\\%s" ']), st.sampled_from(["%s;%s", "%s ;\t%s"]))
def test_encode_then_parse_is_the_identity(sent: list[ExtensionOffer], quoted: str, joined: str) -> None:
    """RFC 6455 §9.1."""
    text = ",".join(
        joined % (offer.name, ";".join(name if value is None else f"{name}={quoted % value}"
                                       for name, value in offer.parameters)) if offer.parameters else offer.name
        for offer in sent
    )  # fmt: skip
    assert parse_extensions([text.encode()]) == sent


@given(
    st.lists(st.text('ab =;,"\\\t\xe9').map(lambda text: text.encode("latin-1")), max_size=3) | st.lists(st.binary())
)
def test_any_extensions_give_tokens_only(values: list[bytes]) -> None:
    """RFC 6455 §9.1: never an exception, and nothing that could not be sent back."""
    for offer in parse_extensions(values):
        words = [offer.name, *[word for pair in offer.parameters for word in pair if word is not None]]
        assert all(is_token(word.encode("latin-1")) for word in words)


# ---- the answer

ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # for KEY, RFC 6455 §1.3
DEFAULTS = b"date: now\r\nserver: asgiws\r\n"
START = (
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: " + ACCEPT
)


def answer(
    *headers: tuple[object, object],
    subprotocol: str | None = None,
    extension: bytes | None = None,
    offered: str = "chat",
) -> bytes:
    return encode_accept(Handshake(KEY, offered.split(), [], None), subprotocol, extension, headers, DEFAULTS)


def test_accept_value_of_the_rfc() -> None:
    """RFC 6455 §1.3."""
    assert accept_value(KEY) == ACCEPT


def test_accept_is_a_101() -> None:
    """RFC 6455 §4.2.2, item 5."""
    assert answer() == START + b"\r\n" + DEFAULTS + b"\r\n"
    assert answer((b"Set-Cookie", b"a"), (b"set-cookie", b"b"), subprotocol="chat", extension=b"x; y=1") == (
        START + b"\r\nsec-websocket-protocol: chat\r\nsec-websocket-extensions: x; y=1\r\n"
        b"set-cookie: a\r\nset-cookie: b\r\n" + DEFAULTS + b"\r\n"
    )


@pytest.mark.parametrize("subprotocol", ["other", "Chat", "", "chat ", "chat\r\nx: y", "caf\xe9", "chat superchat"])
def test_subprotocol_that_was_not_offered_raises(subprotocol: str) -> None:
    """RFC 6455 §4.2.2, item 5.5: the value chosen MUST be derived from the client's handshake."""
    with pytest.raises(ValueError, match=r"subprotocol .*, allowed: one of \['chat', 'superchat'\] or None"):
        answer(subprotocol=subprotocol, offered="chat superchat")


@pytest.mark.parametrize("name", [
    b"Connection", b"upgrade", b"content-length", b"Transfer-Encoding", b"sec-websocket-accept",
    b"Sec-WebSocket-Extensions", b"sec-websocket-protocol", b"sec-websocket-version",
])  # fmt: skip
def test_field_of_the_handshake_itself_raises(name: bytes) -> None:
    """ASGI websocket.accept: the subprotocol and the handshake are the server's to write."""
    with pytest.raises(ValueError, match=rf"header {name.decode().lower()} in websocket.accept"):
        answer((b"x-a", b"b"), (name, b"value"))


@table("name,value", {
    "value-cr-lf": (b"x-a", b"b\r\nset-cookie: c"), "value-lf": (b"x-a", b"b\n"), "value-cr": (b"x-a", b"b\r"),
    "value-nul": (b"x-a", b"\0"), "name-cr-lf": (b"x-a: b\r\nx-c", b"d"), "name-empty": (b"", b"b"),
    "name-space": (b"x a", b"b"), "name-colon": (b"upgrade:", b"b"), "name-space-after": (b"connection ", b"close"),
})  # fmt: skip
def test_header_injection_raises(name: bytes, value: bytes) -> None:
    """RFC 9110 §5.1 and §5.5."""
    with pytest.raises(ValueError, match=r"header .*, allowed: "):
        answer((name, value))


@table("field", {"str-name": ("x-a", b"b"), "str-value": (b"x-a", "b"), "none": (b"x-a", None)})
def test_header_that_is_not_bytes_raises(field: tuple[object, object]) -> None:
    """ASGI: header names and values are byte strings."""
    with pytest.raises(TypeError, match="allowed: name and value as bytes"):
        answer(field)


def test_application_replaces_date_and_server() -> None:
    """RFC 9110 §6.6.1 and §10.2.4: one of each."""
    assert answer((b"Date", b"own")) == START + b"\r\ndate: own\r\nserver: asgiws\r\n\r\n"
    assert answer((b"server", b"own")) == START + b"\r\nserver: own\r\ndate: now\r\n\r\n"
    assert answer((b"Server", b"a"), (b"DATE", b"b")) == START + b"\r\nserver: a\r\ndate: b\r\n\r\n"


# ---- origins


@table("origin,allowed,verdict", {
    "no-list": ("https://evil.com", [], True),
    "no-origin": (None, ["https://example.com"], True),
    "any": ("https://evil.com", ["https://example.com", "*"], True),
    "exact": ("https://example.com", ["https://other.org", "https://example.com"], True),
    "exact-port": ("http://localhost:3000", ["http://localhost:3000"], True),
    "case": ("HTTPS://Example.com", ["https://EXAMPLE.com"], True),
    "slash-in-option": ("https://example.com", ["https://example.com/"], True),
    "other-host": ("https://evil.com", ["https://example.com"], False),
    "other-scheme": ("http://example.com", ["https://example.com"], False),
    "other-port": ("https://example.com:8443", ["https://example.com"], False),
    "longer": ("https://example.com.evil.com", ["https://example.com"], False),
    "host-below": ("https://a.example.com", ["https://example.com"], False),
    "null": ("null", ["https://example.com"], False),
    "null-allowed": ("null", ["null"], True),
    "empty": ("", ["https://example.com"], False),
    "8-bit": ("https://\xe9", ["https://example.com"], False),
    "below": ("https://a.example.com", ["*.example.com"], True),
    "far-below": ("http://a.b.example.com:8000", ["*.example.com"], True),
    "below-case": ("https://A.EXAMPLE.com", ["*.Example.com"], True),
    "not-itself": ("https://example.com", ["*.example.com"], False),
    "not-itself-port": ("https://example.com:80", ["*.example.com"], False),
    "name-before": ("https://evilexample.com", ["*.example.com"], False),
    "no-name-below": ("https://.example.com", ["*.example.com"], False),
    "below-another": ("https://a.example.com.evil.com", ["*.example.com"], False),
    "below-null": ("null", ["*.example.com"], False),
    "below-ipv6": ("http://[::1]:8000", ["*.example.com"], False),
})  # fmt: skip
def test_origin(origin: str | None, allowed: list[str], verdict: bool) -> None:
    """RFC 6455 §10.2: a server that is not for every page SHOULD check the Origin of a browser."""
    assert origin_allowed(None if origin is None else origin.encode("latin-1"), tuple(allowed)) is verdict
