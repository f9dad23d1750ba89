"""Request heads: what is read from a good one, and how each way to break RFC 9112 is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgiws.protocol.errors import Violation
from asgiws.protocol.http.fields import header_tokens, is_token, printable
from asgiws.protocol.http.head import RequestHead, parse_head
from asgiws.protocol.http.head_reader import HeadCache, HeadReader
from asgiws.protocol.limits import Limits
from tests.protocol.http_help import (
    HOST,
    LIMITS,
    CountingBuffer,
    accepted,
    cut,
    dribble,
    feed,
    mutated,
    parse,
    refused,
    request,
    table,
)

CONTROLS = {f"x{byte:02x}": bytes([byte]) for byte in (0, 1, 8, 0x0B, 0x0C, 0x1B, 0x1C, 0x1D, 0x1E, 0x1F, 0x7F)}

# ---- the request line


@table("line,parts", {
    "version-missing": (b"GET /", "2 parts"), "target-missing": (b"GET", "1 parts"),
    "two-spaces": (b"GET  / HTTP/1.1", "4 parts"), "space-at-end": (b"GET / HTTP/1.1 ", "4 parts"),
    "space-in-target": (b"GET /a b HTTP/1.1", "4 parts"),
})  # fmt: skip
def test_request_line_without_three_parts_is_refused(line: bytes, parts: str) -> None:
    """RFC 9112 §3: request-line = method SP request-target SP HTTP-version."""
    refused(parse(request(line=line)), "malformed-request-line", 400, parts, "allowed: method, one space, target")


@table("version", {
    "lower-case": b"http/1.1", "no-minor": b"HTTP/1", "no-dot": b"HTTP/111", "two-dots": b"HTTP/1..",
    "leading-dot": b"HTTP/.11", "two-digits": b"HTTP/1.10", "comma": b"HTTP/1,1", "https": b"HTTPS/1.1",
    "superscript": b"HTTP/1.\xb9", "empty": b"",
})  # fmt: skip
def test_version_of_other_shape_is_refused(version: bytes) -> None:
    """RFC 9112 §2.3: HTTP-version = "HTTP" "/" DIGIT "." DIGIT, case-sensitive."""
    result = parse(request(line=b"GET / " + version))
    refused(result, "malformed-request-line", 400, f"version {printable(version)}", "allowed: HTTP/1.1 and HTTP/1.0")


@pytest.mark.parametrize("version", ["HTTP/0.9", "HTTP/2.0", "HTTP/2.1", "HTTP/3.0"])
def test_version_not_spoken_is_refused_with_505(version: str) -> None:
    """RFC 9110 §2.5: a server answers 505 to a version that it does not speak."""
    refused(parse(request(line=b"GET / " + version.encode())), "unsupported-version", 505, version, "allowed: HTTP/1.1")


@pytest.mark.parametrize("version", [b"HTTP/1.2", b"HTTP/1.9"])
def test_higher_minor_version_is_read_as_1_1(version: bytes) -> None:
    """RFC 9110 §2.5: processed "as if it was in the highest minor version within that major version"."""
    head = accepted(parse(request(b"Expect: 100-continue", line=b"GET / " + version)))
    assert (head.http_version, head.keep_alive, head.expect_continue) == ("1.1", True, True)
    refused(parse(request(host=None, line=b"GET / " + version)), "missing-host", 400, "without Host", "one is needed")


def test_http_2_preface_is_refused_with_505() -> None:
    """RFC 9113 §3.4: the preface of HTTP/2 is made to look like a request of that version."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    refused(parse(preface), "unsupported-version", 505, "HTTP/2.0", "allowed: HTTP/1.1 and HTTP/1.0")


@table("method", {"parenthesis": b"G(T", "tab": b"GET\t", "colon": b"GET:", "8-bit": b"G\xc9T", "empty": b""})
def test_method_that_is_no_token_is_refused(method: bytes) -> None:
    """RFC 9110 §9.1: method = token."""
    result = parse_head(request(line=method + b" / HTTP/1.1")[:-4], LIMITS)
    refused(result, "bad-method", 400, f"method {printable(method)}", "allowed: a token")


def test_connect_is_not_implemented() -> None:
    """RFC 9110 §9.3.6: CONNECT is for proxies."""
    result = parse(request(line=b"CONNECT example.com:443 HTTP/1.1"))
    refused(result, "connect-unsupported", 501, "CONNECT", "not a proxy")


@table("target", {
    "empty": b"", "relative": b"path", "authority-form": b"example.com:80", "other-scheme": b"ftp://example.com/",
    "one-slash": b"http:/example.com/", "scheme-alone": b"http", "asterisk-without-options": b"*", "fragment": b"/a#b",
    "8-bit": b"/\xc3\xa9", "x85": b"/\x85", "tab": b"/a\tb",
})  # fmt: skip
def test_target_of_no_known_form_is_refused(target: bytes) -> None:
    """RFC 9112 §3.2: origin-form, absolute-form, and asterisk-form with OPTIONS."""
    result = parse(request(line=b"GET %s HTTP/1.1" % target))
    refused(result, "bad-target", 400, f"target {printable(target)}, allowed: ")


@table("target,path,decoded,query", {
    "origin": (b"/where", b"/where", "/where", b""), "query": (b"/where?q=now&r", b"/where", "/where", b"q=now&r"),
    "two-question-marks": (b"/a?b?c", b"/a", "/a", b"b?c"),
    "two-slashes": (b"//evil.com/x", b"//evil.com/x", "//evil.com/x", b""),
    "percent": (b"/%66o%2Fo?%20", b"/%66o%2Fo", "/fo/o", b"%20"),
    "percent-utf-8": (b"/%C3%A9", b"/%C3%A9", "/é", b""),
    "percent-bad-utf-8": (b"/%ff%00", b"/%ff%00", "/\N{REPLACEMENT CHARACTER}\0", b""),
    "percent-alone": (b"/100%/%zz", b"/100%/%zz", "/100%/%zz", b""),
    "dots": (b"/a/../b", b"/a/../b", "/a/../b", b""),
    "unescaped": (b"/{a|b}\"'<>[]^`\\", b"/{a|b}\"'<>[]^`\\", "/{a|b}\"'<>[]^`\\", b""),
})  # fmt: skip
def test_origin_form_gives_path_and_query(target: bytes, path: bytes, decoded: str, query: bytes) -> None:
    """RFC 9112 §3.2.1."""
    head = accepted(parse(request(line=b"GET %s HTTP/1.1" % target)))
    assert (head.target, head.path, head.query) == (path, decoded, query)


@table("target,host,path,query", {
    "path": (b"http://other.org/a?b", b"other.org", b"/a", b"b"),
    "no-path": (b"http://other.org", b"other.org", b"/", b""),
    "no-path-but-query": (b"http://other.org?a/b", b"other.org", b"/", b"a/b"),
    "port": (b"HTTPS://other.org:8443/", b"other.org:8443", b"/", b""),
    "websocket": (b"wss://[2001:db8::1]:9/x", b"[2001:db8::1]:9", b"/x", b""),
    "url-in-path": (b"http://other.org/http://third.org/", b"other.org", b"/http://third.org/", b""),
})  # fmt: skip
def test_absolute_form_replaces_host(target: bytes, host: bytes, path: bytes, query: bytes) -> None:
    """RFC 9112 §3.2.2: the server MUST ignore the received Host and use the host of the target."""
    head = accepted(parse(request(b"A: b", b"C: d", line=b"GET %s HTTP/1.1" % target)))
    assert (head.target, head.query) == (path, query)
    assert head.headers == [(b"host", host), (b"a", b"b"), (b"c", b"d")]
    assert not any("scheme" in field for field in head._fields)


@table("target", {"no-host": b"http:///a", "user": b"http://me:pw@other.org/", "port": b"http://other.org:x/"})
def test_absolute_form_with_bad_host_is_refused(target: bytes) -> None:
    """RFC 9110 §4.2.1 and §4.2.4: an empty host or a user in an http URL is an error."""
    result = parse(request(line=b"GET %s HTTP/1.1" % target))
    refused(result, "bad-host", 400, "in the target", "allowed: name and port")


def test_asterisk_form_comes_with_options() -> None:
    """RFC 9112 §3.2.4."""
    head = accepted(parse(request(line=b"OPTIONS * HTTP/1.1")))
    assert (head.method, head.target, head.path) == ("OPTIONS", b"*", "*")
    refused(parse(request(line=b"OPTIONS ** HTTP/1.1")), "bad-target", 400, "target **", "* with OPTIONS")


@pytest.mark.parametrize("method", [b"get", b"Get", b"GET"])
def test_method_is_one_whatever_its_case(method: bytes) -> None:
    """ASGI H1 has it in upper case: framing, limits and the application must not see two methods."""
    assert accepted(parse(request(line=method + b" / HTTP/1.1"))).method == "GET"


def test_method_in_lower_case_has_the_rules_of_that_in_upper_case() -> None:
    assert accepted(parse(request(line=b"options * HTTP/1.1"))).method == "OPTIONS"
    refused(parse(request(line=b"connect a:1 HTTP/1.1")), "connect-unsupported", 501, "CONNECT", "not a proxy")


# ---- lines and bytes


@table("data", {
    "all": b"GET / HTTP/1.1\nHost: example.com\n\n", "request-line": b"GET / HTTP/1.1\nHost: example.com\r\n\r\n",
    "field": b"GET / HTTP/1.1\r\nA: b\nHost: example.com\r\n\r\n",
    "last-field": b"GET / HTTP/1.1\r\nHost: example.com\n\r\n\r\n", "first-byte": b"GET /\n\r\n\r\n",
    "cr-alone": b"GET / HTTP/1.1\r\nHost: example.com\rA: b\r\n\r\n",
    "cr-cr-lf": b"GET / HTTP/1.1\r\nHost: example.com\r\r\n\r\n",
    "cr-and-lf-apart": b"GET / HTTP/1.1\r\nHost: exa\rmp\nle.com\r\n\r\n",
})  # fmt: skip
def test_bare_line_end_is_refused(data: bytes) -> None:
    """RFC 9112 §2.2: a recipient may take LF alone as a line end, and then reads another request than its proxy."""
    refused(parse(data), "bare-line-end", 400, "lines end with CR LF")
    refused(dribble(data), "bare-line-end", 400, "lines end with CR LF")


def test_bare_lf_is_refused_before_the_head_ends() -> None:
    """RFC 9112 §2.2: a client that ends lines with LF alone is answered, not left waiting for CR LF."""
    refused(parse(b"GET / HTTP/1.1\n"), "bare-line-end", 400, "without CR")


@table("byte", CONTROLS)
@table("place", {"value": b"A: b%sc", "start": b"A:%sbc", "name": b"A%sA: bc"})
def test_control_character_in_a_field_is_refused(place: bytes, byte: bytes) -> None:
    """RFC 9110 §5.5: "other control characters are also invalid"; some parsers split lines at them."""
    refused(parse(request(place % byte)), "control-character", 400, f"character {printable(byte)} in", "allowed: tab")


@table("byte", CONTROLS)
def test_control_character_in_the_request_line_is_refused(byte: bytes) -> None:
    """RFC 9112 §3.2."""
    result = parse(request(line=b"GET /%s HTTP/1.1" % byte))
    refused(result, "control-character", 400, f"character {printable(byte)} in", "allowed: tab")


def test_8_bit_bytes_stay_inside_a_value() -> None:
    """RFC 9110 §5.5: obs-text; x85 is a line end to `str.splitlines` only."""
    head = accepted(parse(request(b"A: \xc3\x85\x85Host: evil\xa0\xff")))
    assert head.headers == [(b"host", b"example.com"), (b"a", b"\xc3\x85\x85Host: evil\xa0\xff")]


@table("fold", {"space": b" b", "tab": b"\tb", "field": b" Host: evil", "empty": b" "})
def test_folded_field_is_refused(fold: bytes) -> None:
    """RFC 9112 §5.2: a server MUST reject or unfold obs-fold."""
    refused(parse(request(b"A: a", fold)), "folded-header", 400, "folded over two lines", "one line is allowed")


@table("line", {
    "space-before-colon": b"Content-Length : 3", "tab-before-colon": b"Host\t: evil", "empty-name": b": value",
    "colon-alone": b":", "no-colon": b"name", "no-colon-usual-name": b"Cookie", "no-colon-host": b"host",
    "no-colon-length": b"Content-Length", "space-in-name": b"A B: c", "parenthesis": b"A(b): c",
    "8-bit": b"Caf\xe9: c", "x85": b"A\x85Host: c",
})  # fmt: skip
def test_field_name_that_is_no_token_is_refused(line: bytes) -> None:
    """RFC 9112 §5.1: a server MUST reject white space between field name and colon."""
    refused(
        parse(request(line)), "bad-header-name", 400, f"header field {printable(line)},", "allowed: token, colon, value"
    )


def test_fields_keep_order_and_duplicates_in_lower_case() -> None:
    """RFC 9110 §5.1 and §5.3."""
    head = accepted(
        parse(request(b"X-B: 1", b"Cookie:a=1", b"x-A:\t 2 \t", b"COOKIE: b=2", b"X-b:", b"!#$%&'*+.^_`|~: :"))
    )
    assert head.headers == [
        (b"host", b"example.com"),
        (b"x-b", b"1"),
        (b"cookie", b"a=1"),
        (b"x-a", b"2"),
        (b"cookie", b"b=2"),
        (b"x-b", b""),
        (b"!#$%&'*+.^_`|~", b":"),
    ]


@table("start", {"tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03", "tls-with-line-end": b"\x16\x03\x03\n\n"})
def test_tls_on_a_plain_port_is_named(start: bytes) -> None:
    """RFC 9112 §2.1; RFC 8446 §5.1: a TLS record of a handshake begins with 22 3."""
    refused(parse(start), "not-http", 400, "TLS handshake on a plain-text port", "allowed: http://")


@table(
    "start",
    {"space": b" GET", "nul": b"\0", "8-bit": b"\xff\xff", "brace": b'{"a"', "cr": b"\rGET", "frame": b"\x81\x85"},
)
def test_first_byte_of_no_method_is_refused_at_once(start: bytes) -> None:
    """RFC 9112 §2.1."""
    refused(parse(start), "not-http", 400, f"first bytes {printable(start)}", "allowed: an HTTP/1.1 request line")


@table("data,rule", {
    "space": (b" GET / HTTP/1.1\r\n\r\n", "not-http"), "colon": (b":\r\n\r\n", "not-http"),
    "json": (b"{} + {}\r\n\r\n", "malformed-request-line"),
})  # fmt: skip
def test_whole_head_that_begins_with_no_method_is_refused(data: bytes, rule: str) -> None:
    """RFC 9112 §2.2: white space before the request line makes it invalid."""
    refused(parse(data), rule, 400, "allowed: ")


def test_one_empty_line_before_the_request_is_skipped() -> None:
    """RFC 9112 §2.2: a server SHOULD ignore at least one empty line before the request line."""
    assert parse(b"\r\n" + request()) == dribble(b"\r\n" + request()) == parse(request())


def test_a_second_empty_line_before_the_request_is_refused() -> None:
    """RFC 9112 §2.2."""
    for result in (parse(b"\r\n\r\n" + request()), dribble(b"\r\n\r\n" + request()), parse(b"\r\n\r\n")):
        refused(result, "not-http", 400, "first bytes \\r\\n", "allowed: an HTTP/1.1 request line")


def test_an_empty_line_is_skipped_before_each_request() -> None:
    """RFC 9112 §2.2: older clients send CR LF after the body of a POST."""
    reader = HeadReader(LIMITS)
    reader.buffer += (b"\r\n" + request()) * 2
    assert accepted(reader.next_head()) == accepted(reader.next_head()) == parse(request())


# ---- limits

SMALL = Limits(request_line_bytes=30, head_bytes=80, header_count=3, body_bytes=10)


BOTH = pytest.mark.parametrize("send", [parse, dribble])
Send = Callable[[bytes, Limits], RequestHead | Violation | None]


def line_of(size: int) -> bytes:
    return b"GET /%s HTTP/1.1" % (b"a" * (size - 14))


def head_of(size: int, limits: Limits) -> bytes:
    """Give a head of `size` bytes, without the empty line that ends it, and a request line as long as may be."""
    head = request(b"a: ", line=line_of(limits.request_line_bytes))[:-4]
    return head + b"b" * (size - len(head)) + b"\r\n\r\n"


@BOTH
@table("limits", {"small": SMALL, "default": LIMITS})
def test_request_line_limit(send: Send, limits: Limits) -> None:
    """RFC 9112 §3: a server answers 414 to a line longer than it wishes to parse."""
    most = limits.request_line_bytes
    accepted(send(request(line=line_of(most)), limits))
    said = f"request line of {most + 1} bytes", f"limit {most}"
    refused(parse(request(line=line_of(most + 1)), limits), "request-line-too-long", 414, *said)
    refused(send(line_of(most + 2), limits), "request-line-too-long", 414, f"limit {most}")


def test_request_line_is_refused_for_its_shape_only_below_its_limit() -> None:
    """RFC 9112 §3."""
    refused(parse(request(line=b"a" * 31), SMALL), "request-line-too-long", 414, "31 bytes", "limit 30")
    refused(parse(b"a" * 500, SMALL), "request-line-too-long", 414, "500 bytes or more", "limit 30")
    refused(parse(b"a" * 500 + b"\r\n\r\n", SMALL), "request-line-too-long", 414, "500 bytes or more", "limit 30")


@BOTH
@table("limits", {"small": SMALL, "default": LIMITS})
def test_head_limit(send: Send, limits: Limits) -> None:
    """RFC 6585 §5: a server answers 431 to header fields too large as a whole."""
    most = limits.head_bytes
    accepted(send(head_of(most, limits), limits))
    result = send(head_of(most + 1, limits), limits)
    refused(result, "head-too-large", 431, "request head of ", " bytes or more", f"limit {most}")
    # before its end arrives
    refused(send(head_of(most + 1, limits)[:-1], limits), "head-too-large", 431, f"limit {most}")


def test_head_smaller_than_its_request_line_may_be_is_refused_as_head() -> None:
    """RFC 6585 §5: whichever limit is lower is the one that the reason names."""
    limits = Limits(head_bytes=40)
    refused(parse(b"GET /" + b"a" * 60, limits), "head-too-large", 431, "65 bytes or more", "limit 40")


def test_header_count_limit() -> None:
    """RFC 6585 §5."""
    accepted(parse(request(b"A: b", b"A: b"), SMALL))
    refused(parse(request(b"A: b", b"A: b", b"A: b"), SMALL), "too-many-headers", 431, "4 header fields", "limit 3")
    accepted(parse(request(*[b"a:"] * 127)))
    refused(parse(request(*[b"a:"] * 128)), "too-many-headers", 431, "129 header fields", "limit 128")


def test_content_length_limit() -> None:
    """RFC 9110 §15.5.14."""
    assert accepted(parse(request(b"Content-Length: 10"), SMALL)).content_length == 10
    refused(parse(request(b"Content-Length: 11"), SMALL), "body-too-large", 413, "Content-Length: 11", "limit 10")
    assert accepted(parse(request(b"Content-Length: 999999999999999999"))).content_length == 10**18 - 1


# ---- Host and Expect


def test_missing_host_is_refused_in_http_1_1() -> None:
    """RFC 9112 §3.2: a server MUST respond with 400 to an HTTP/1.1 request that lacks Host."""
    refused(parse(request(host=None)), "missing-host", 400, "without Host", "one is needed")
    refused(
        parse(request(host=None, line=b"GET http://other.org/ HTTP/1.1")), "missing-host", 400, "without Host", "needed"
    )
    assert accepted(parse(request(host=None, line=b"GET / HTTP/1.0"))).headers == []


@table("second", {"other": b"Host: evil", "same": HOST, "other-case": b"hOST: example.com", "empty": b"Host:"})
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_second_host_is_refused(version: str, second: bytes) -> None:
    """RFC 9112 §3.2: 400 to a request with more than one Host."""
    line = b"GET http://other.org/ HTTP/" + version.encode()
    refused(parse(request(second, line=line)), "duplicate-host", 400, "2 Host fields", "one is allowed")


@table("host", {
    "space": b"a b", "list": b"example.com, evil.com", "slash": b"example.com/", "user": b"me@example.com",
    "query": b"a?b", "8-bit": b"caf\xc3\xa9.fr", "quote": b'"a"', "two-ports": b"a:80:81", "port-name": b"a:http",
    "port-sign": b"a:+1", "port-alone": b":80", "bare-ipv6": b"2001:db8::1", "open-bracket": b"[::1",
    "empty-brackets": b"[]", "text-after-bracket": b"[::1]x", "bracket-in-name": b"a[b]",
    "bad-escape": b"bad%zz", "cut-escape": b"a%2", "name-in-brackets": b"[hello]", "colons": b"[:::::]",
    "ipv4-in-brackets": b"[127.0.0.1]", "empty-zone": b"[fe80::1%25]", "bare-zone": b"[fe80::1%en0]",
    "future-without-dot": b"[v1]", "zone-of-a-future": b"[v1.a%25b]", "caret": b"a^b",
})  # fmt: skip
def test_invalid_host_is_refused(host: bytes) -> None:
    """RFC 9112 §3.2: 400 to a Host with an invalid value; RFC 9110 §7.2: Host = uri-host [ ":" port ]."""
    result = parse(request(host=b"Host: " + host))
    refused(result, "bad-host", 400, f"Host {printable(host)}, ", "allowed: a name or address and a port")


@pytest.mark.parametrize(
    "host",
    [
        "",
        "a",
        "a-b.example.com:8000",
        "127.0.0.1:",
        "[::1]",
        "[fe80::1%25en0]:80",
        "x_y",
        "a,b",
        "caf%C3%A9.fr",
        "[v1.fe80::a+en1]",
        "[::ffff:1.2.3.4]:80",
        "a:",
    ],
)
def test_valid_host_is_accepted(host: str) -> None:
    """RFC 9110 §7.2, RFC 3986 §3.2.2."""
    assert accepted(parse(request(host=b"Host: " + host.encode()))).headers == [(b"host", host.encode())]


@table("value", {"other": b"202-accepted", "list": b"100-continue, x", "parameter": b"100-continue;a"})
def test_unknown_expectation_is_refused(value: bytes) -> None:
    """RFC 9110 §10.1.1: 417 to an expectation that is not 100-continue."""
    result = parse(request(b"Expect: " + value))
    refused(result, "unknown-expectation", 417, f"Expect: {printable(value)}", "allowed: 100-continue")


def test_second_expectation_is_refused() -> None:
    """RFC 9110 §10.1.1."""
    result = parse(request(b"Expect: 100-continue", b"Expect: other"))
    refused(result, "unknown-expectation", 417, "Expect: 100-continue, other", "allowed: 100-continue")


@pytest.mark.parametrize(
    "values", [[b"100-continue", b"100-Continue"], [b"100-continue, 100-continue"], [b", 100-continue,"]]
)
def test_expectation_may_be_repeated_and_its_list_have_empty_members(values: list[bytes]) -> None:
    """RFC 9110 §10.1.1: Expect = #expectation; §5.6.1.2: a recipient MUST parse and ignore empty list elements."""
    assert accepted(parse(request(*[b"Expect: " + value for value in values]))).expect_continue


@pytest.mark.parametrize("value", [b"", b" , "])
def test_empty_expectation_is_none(value: bytes) -> None:
    assert not accepted(parse(request(b"Expect: " + value))).expect_continue


def test_expectation_counts_in_http_1_1_only() -> None:
    """RFC 9110 §10.1.1: a server MUST ignore 100-continue in an HTTP/1.0 request."""
    assert accepted(parse(request(b"Expect: 100-Continue"))).expect_continue
    assert not accepted(parse(request(b"Expect: 100-continue", line=b"GET / HTTP/1.0"))).expect_continue
    assert not accepted(parse(request())).expect_continue


# ---- the connection


@pytest.mark.parametrize(
    ("version", "options", "keep_alive"),
    [
        ("1.1", "", True),
        ("1.1", "keep-alive", True),
        ("1.1", "Close", False),
        ("1.1", "keep-alive, close", False),
        ("1.0", "", False),
        ("1.0", "Keep-Alive", True),
        ("1.0", "upgrade ,\tkeep-alive", True),
        ("1.0", "close", False),
        ("1.0", "keep-alive, close", False),
    ],
)
def test_keep_alive(version: str, options: str, keep_alive: bool) -> None:
    """RFC 9112 §9.3: close always ends it; else HTTP/1.1 persists, and HTTP/1.0 with keep-alive does."""
    head = accepted(parse(request(b"Connection: " + options.encode(), line=b"GET / HTTP/" + version.encode())))
    assert head.keep_alive is keep_alive
    assert head.http_version == version


def test_connection_and_upgrade_are_lists() -> None:
    """RFC 9110 §7.6.1 and §7.8: several fields are one list, options have no case."""
    fields = b"Connection: Upgrade, ,keep-alive", b"connection: X", b"Upgrade: WebSocket,h2c", b"Upgrade:"
    head = accepted(parse(request(*fields)))
    assert head.connection == (b"upgrade", b"keep-alive", b"x")
    assert head.upgrade == (b"websocket", b"h2c")
    assert accepted(parse(request())).upgrade == ()


def test_pipelined_requests_stay_in_the_buffer() -> None:
    """RFC 9112 §9.3.2: requests are answered in order; what is behind a head belongs to the caller."""
    reader = HeadReader(LIMITS)
    reader.buffer += request(line=b"GET /1 HTTP/1.1") + request(line=b"GET /2 HTTP/1.1") + b"GET /3"
    assert [accepted(reader.next_head()).path for _ in "12"] == ["/1", "/2"]
    assert reader.next_head() is None
    assert reader.buffer == b"GET /3"
    reader.buffer += b" HTTP/1.1\r\n" + HOST + b"\r\n\r\n" + request() + b"\x81\x85"
    assert [accepted(reader.next_head()).path for _ in "34"] == ["/3", "/"]
    assert reader.buffer == b"\x81\x85"


def test_list_elements_are_stripped_and_empty_ones_left_out() -> None:
    """RFC 9110 §5.6.1."""
    assert header_tokens([b"A,, b\t", b"", b" C "]) == (b"a", b"b", b"c")
    assert header_tokens([b" Close "]) == (b"close",)
    assert header_tokens([b" "]) == header_tokens([]) == ()


def test_printable_is_short_escaped_ascii() -> None:
    """What a peer sent is safe in a log, whatever it is."""
    assert printable(b"a'\r\n\x1b\x85\xff\\") == "a'\\r\\n\\x1b\\x85\\xff\\\\"
    assert printable(b"a" * 40) == "a" * 40
    assert printable(b"a" * 41) == "a" * 40 + "..."
    assert all(printable(bytes([byte, 0x27, 0x22])).isprintable() for byte in range(256))


# ---- properties

SAMPLES = [
    request(b"Content-Length: 3", b"A: b", line=b"POST /a?b HTTP/1.1") + b"abc",
    request(b"Connection: Upgrade", b"Upgrade: websocket") + b"\x81\x80\0\0\0\0",
    request(b"Transfer-Encoding: chunked", line=b"PUT http://a:8/%41 HTTP/1.1") + b"0\r\n\r\n",
    b"\r\n" + request(b"Connection: close", line=b"OPTIONS * HTTP/1.0") + request(),
]
# The rules that can refuse a head before its end is there
EARLY = {"not-http", "bare-line-end", "request-line-too-long", "head-too-large"}


@given(st.data(), st.sampled_from([LIMITS, SMALL]))
def test_any_split_gives_the_same_as_one_feed(data: st.DataObject, limits: Limits) -> None:
    """Cuts change nothing, but that of two faults the one that is seen early may be named first."""
    stream = data.draw(mutated(SAMPLES) | st.binary(max_size=200))
    whole, rest = feed([stream], limits)
    split, split_rest = feed(data.draw(cut(stream)), limits)
    if isinstance(whole, Violation) and isinstance(split, Violation):
        assert split.rule.name in EARLY or split == whole
    else:
        assert (split, split_rest) == (whole, rest)


@given(st.data(), st.lists(st.sampled_from([b"", b"\r\n"]), max_size=5))
def test_any_split_of_pipelined_requests_gives_each(data: st.DataObject, before: list[bytes]) -> None:
    """RFC 9112 §9.3.2: nothing of one head is remembered for the next."""
    stream = b"".join(start + request(line=b"GET /%d HTTP/1.1" % at) for at, start in enumerate(before))
    reader, heads = HeadReader(LIMITS), []
    for piece in data.draw(cut(stream)):
        reader.buffer += piece
        while (head := reader.next_head()) is not None:
            heads.append(accepted(head).path)
    assert heads == [f"/{at}" for at in range(len(before))]


@given(mutated(SAMPLES) | st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    """RFC 9110 §5.5: never an exception, and no control character in what is accepted."""
    result = parse_head(data, LIMITS)
    if isinstance(result, RequestHead):
        lines = data.split(b"\r\n")
        assert not set(b"".join(lines)) & {*range(9), *range(10, 32), 127}
        assert sum(name != b"host" for name, _ in result.headers) == sum(
            not line.lower().startswith(b"host:") for line in lines[1:]
        )
        assert result.path.isprintable() or b"%" in result.target
    else:
        refused(result, result.rule.name, result.rule.code)


NAMES = st.text("!#$%&'*+-.^_`|~09azAZ", min_size=1, max_size=9).map(str.encode)
VALUES = st.binary(max_size=20).map(lambda raw: bytes(byte for byte in raw if byte > 31 and byte != 127).strip())


@given(st.lists(st.tuples(NAMES, VALUES), max_size=9))
def test_fields_come_back_as_they_were_sent(fields: list[tuple[bytes, bytes]]) -> None:
    """RFC 9112 §5: field-line = field-name ":" OWS field-value OWS."""
    head = accepted(parse(request(*[b"%s:%s" % field for field in fields])))
    assert head.headers[1:] == [(name.lower(), value) for name, value in fields]
    assert all(is_token(name) for name, _ in head.headers)


@table("data", {
    "long-line": line_of(8192) + b"\r\n" + b"a: b\r\n" * 7000, "one-field": request(b"a: " + b"b" * 65000)[:-4],
    "carriage-returns": b"GET /" + b"\r" * 8000 + b"\r\n" + b"\r" * 50000,
})  # fmt: skip
def test_dribbled_head_costs_linear_time(data: bytes) -> None:
    """RFC 9112 §3: byte by byte, each byte of a head is looked at a few times only."""
    reader = HeadReader(LIMITS)
    reader.buffer = counting = CountingBuffer()
    for at in range(len(data)):
        counting += data[at : at + 1]
        assert reader.next_head() is None
    assert counting.cost < 10 * len(data)


# ---- heads that are known


def test_known_head_is_read_as_the_first_time() -> None:
    """What one connection has read, another one knows: alone, behind another, and in pieces."""
    known = HeadCache(LIMITS)
    head = request(b"TE: trailers", b"X-A: b")
    first = HeadReader(LIMITS, known).feed(head)
    assert isinstance(first, RequestHead)
    reader = HeadReader(LIMITS, known)
    assert reader.feed(head) is first
    assert reader.feed(head + head) is first
    assert reader.feed(b"") is first
    assert reader.feed(head[:20]) is None
    assert reader.feed(head[20:]) is first
    assert reader.buffer == b""


def test_head_that_comes_in_two_reads_is_read_wherever_they_meet() -> None:
    head = request(b"X-A: b")
    for at in range(1, len(head)):
        reader = HeadReader(LIMITS)
        assert reader.feed(head[:at]) is None
        assert reader.feed(head[at:]) == parse(head)
        assert reader.buffer == b""


LINES = [
    b"GET / HTTP/1.1", b"GET /a/b?c=d%20&e HTTP/1.1", b"GET /%E2%82%AC%ff HTTP/1.1", b"POST /a HTTP/1.1",
    b"GET / HTTP/1.0", b"GET // HTTP/1.1", b"GET http://other/a HTTP/1.1", b"OPTIONS * HTTP/1.1", b"GET /? HTTP/1.1",
    b"get / HTTP/1.1", b"GET /" + b"a" * 300 + b" HTTP/1.1",
    # refused
    b"GET /a b HTTP/1.1", b"GET  / HTTP/1.1", b" / HTTP/1.1", b"/ HTTP/1.1", b"GET / HTTP/1.2", b"CONNECT / HTTP/1.1",
    b"GET /# HTTP/1.1", b"GET /\x80 HTTP/1.1", b"GET /\n HTTP/1.1", b"GET /\r HTTP/1.1", b"GET / HTTP/1.1 HTTP/1.1",
    b"GET * HTTP/1.1", b"G@T / HTTP/1.1", b"GET HTTP/1.1", b"GET / HTTP/1.10", b"GET /" + b"a" * 5000 + b" HTTP/1.1",
]  # fmt: skip


@pytest.mark.parametrize("fields", [[b"X-A: b"], [b"Content-Length: 5"], [b"Transfer-Encoding: chunked"]])
def test_target_is_read_as_ever_where_the_fields_are_known(fields: list[bytes]) -> None:
    """Whatever is in the line before them, and whichever line they were read with first."""
    lines = [b"\r\n".join([line, b"Host: localhost", *fields, b"", b""]) for line in LINES]
    known = HeadCache(LIMITS)
    for head in [*lines, *reversed(lines)]:
        assert HeadReader(LIMITS, known).feed(head) == HeadReader(LIMITS).feed(head), head[:40]
    assert 1 <= len(known) <= 3, "one for each version"


def test_head_that_is_longer_by_its_target_is_measured_whole() -> None:
    """The limit on a head holds where its fields are known too."""
    limits = dataclasses.replace(LIMITS, head_bytes=100)
    known = HeadCache(limits)
    assert isinstance(HeadReader(limits, known).feed(request(b"X-A: b")), RequestHead)
    fields = request(b"X-A: b").partition(b" HTTP")[2]
    for size, whole in ((100, False), (20, True)):
        result = HeadReader(limits, known).feed(b"GET /" + b"a" * size + b" HTTP" + fields)
        assert isinstance(result, RequestHead) is whole


def test_empty_line_is_ignored_once_before_each_known_head() -> None:
    """RFC 9112 §2.2: at least one, and a known head counts as a head."""
    known = HeadCache(LIMITS)
    reader = HeadReader(LIMITS, known)
    for _ in range(3):
        assert reader.feed(b"\r\n") is None
        assert isinstance(reader.feed(request()), RequestHead)
        assert isinstance(reader.feed(b"\r\n" + request()), RequestHead)
    refused(reader.feed(b"\r\n\r\n" + request()), "not-http", 400)


@pytest.mark.parametrize("fields", [[b"Upgrade: websocket", b"Connection: Upgrade"], [b"X-A: " + b"a" * 2048]])
def test_handshakes_and_large_heads_are_not_kept(fields: list[bytes]) -> None:
    """The one has a key of its own, and the other would let a peer decide how much is kept."""
    known = HeadCache(LIMITS)
    assert isinstance(HeadReader(LIMITS, known).feed(request(*fields)), RequestHead)
    assert len(known) == 0


def test_head_that_its_target_makes_large_is_not_kept() -> None:
    """Alone, and where its fields are known by a smaller one."""
    known = HeadCache(LIMITS)
    large = request(line=b"GET /" + b"a" * 2048 + b" HTTP/1.1")
    assert isinstance(HeadReader(LIMITS, known).feed(large), RequestHead)
    assert len(known) == 0
    small = HeadReader(LIMITS, known).feed(request())
    assert HeadReader(LIMITS, known).feed(large) == HeadReader(LIMITS).feed(large)
    assert HeadReader(LIMITS, known).feed(request()) is small


def test_so_many_heads_are_kept_and_no_violation() -> None:
    """While there is no room, what is known stays known."""
    known = HeadCache(LIMITS)
    first = HeadReader(LIMITS, known).feed(request(b"X-A: 0"))
    for number in range(1000):
        assert HeadReader(LIMITS, known).feed(request(b"X-A: %d" % number))
        assert isinstance(HeadReader(LIMITS, known).feed(request(b"X-A : %d" % number)), Violation)
    assert len(known) == 512
    assert HeadReader(LIMITS, known).feed(request(b"X-A: 0")) is first
