"""What proxies say of where a request comes from, and how much of it is believed (RFC 7239)."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgiws.protocol.http.forwarded import FORWARDED_FIELDS, Source, parse_forwarded, parse_node, trusted_source
from asgiws.protocol.http.head import RequestHead, parse_head
from asgiws.protocol.limits import Limits
from asgiws.protocol.trusted_networks import TrustedNetworks

TRUSTED = TrustedNetworks(["127.0.0.1", "10.0.0.0/8", "fd00::/8"])
EVERYBODY = TrustedNetworks(["*"])
NOTHING = Source(None, None, None, None)


def read(*lines: str, trusted: TrustedNetworks = TRUSTED) -> Source:
    """Believe header lines; `For: 192.0.2.1` is X-Forwarded-For."""
    fields: dict[bytes, list[bytes]] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name = name.lower()
        key = name if name == "forwarded" else f"x-forwarded-{name}"
        assert key.encode() in FORWARDED_FIELDS
        fields.setdefault(key.encode(), []).append(value.strip().encode("latin-1"))
    return trusted_source(fields, trusted)


@pytest.mark.parametrize("name", FORWARDED_FIELDS)
def test_head_says_whether_there_is_such_a_field(name: bytes) -> None:
    for fields, expected in ((b"", False), (name.title() + b": x\r\n", True)):
        head = parse_head(b"GET / HTTP/1.1\r\n" + fields + b"Host: a", Limits())
        assert isinstance(head, RequestHead)
        assert head.forwarded is expected


# ---- addresses


@pytest.mark.parametrize(
    ("value", "node"),
    [
        (b"192.0.2.1", ("192.0.2.1", 0)),
        (b"192.0.2.1:4711", ("192.0.2.1", 4711)),
        (b"192.0.2.1:0", ("192.0.2.1", 0)),
        (b"192.0.2.1:65535", ("192.0.2.1", 65535)),
        (b"192.0.2.1:_hidden-9", ("192.0.2.1", 0)),
        (b"2001:db8::1", ("2001:db8::1", 0)),
        (b"[2001:db8::1]", ("2001:db8::1", 0)),
        (b"[2001:db8::1]:4711", ("2001:db8::1", 4711)),
        (b"2001:DB8:0:0:0:0:0:1", ("2001:db8::1", 0)),
        (b"::ffff:192.0.2.1", ("192.0.2.1", 0)),
        (b"[::ffff:c000:201]:80", ("192.0.2.1", 80)),
    ],
)
def test_address_is_given_in_its_shortest_form_with_its_port(value: bytes, node: tuple[str, int]) -> None:
    """One client has one name, however a proxy writes it: rates and bans count by it."""
    assert parse_node(value) == node


@pytest.mark.parametrize(
    "value",
    [
        b"", b"unknown", b"_hidden", b"_", b"unix:", b"localhost", b"example.com:80", b"-", b"null",
        b"192.0.2", b"192.0.2.256", b"192.0.2.01", b"0xc0000201", b"3221225985", b"192.0.2.1.", b"192.0.2.1/32",
        b"192.0.2.1:", b"192.0.2.1:65536", b"192.0.2.1:123456", b"192.0.2.1:+1", b"192.0.2.1:1_0", b"192.0.2.1:x",
        b"192.0.2.1:_", b"192.0.2.1:_a b", b"192.0.2.1 10.0.0.1", b" 192.0.2.1", b"\xb2.0.2.1", b"\xd9\xa1.0.2.1",
        b"[192.0.2.1]", b"[2001:db8::1", b"2001:db8::1]", b"[2001:db8::1]80", b"[2001:db8::1]:", b"[[::1]]", b"[]",
        b"2001:db8::1::", b"fe80::1%eth0", b"[fe80::1%25eth0]", b'"192.0.2.1"', b"1" * 65, b"_" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_address_is_none(value: bytes) -> None:
    assert parse_node(value) is None


# ---- the walk


@pytest.mark.parametrize(
    ("line", "client"),
    [
        ("For: 192.0.2.1", "192.0.2.1"),
        ("For: 192.0.2.1, 10.0.0.1, 10.0.0.2", "192.0.2.1"),
        ("For: 192.0.2.1,10.0.0.1\t, fd00::1", "192.0.2.1"),
        ("For: 203.0.113.9, 192.0.2.1, 10.0.0.1", "192.0.2.1"),
        ("For: 127.0.0.1, 192.0.2.1", "192.0.2.1"),
        ("For: 203.0.113.9, 192.0.2.1, ::ffff:10.0.0.1", "192.0.2.1"),
        ("For: 10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("For: , 192.0.2.1, ,", "192.0.2.1"),
        ("Forwarded: for=203.0.113.9, for=192.0.2.1, for=10.0.0.1", "192.0.2.1"),
        ('Forwarded: For="[2001:db8::1]:80";proto=https, for="[fd00::1]"', "2001:db8::1"),
        ("Forwarded: for=10.0.0.3, for=10.0.0.2", "10.0.0.3"),
    ],
)
def test_first_address_from_the_right_that_is_not_trusted_is_the_client(line: str, client: str) -> None:
    """All further to the left the client could have sent itself. When all are trusted, the first one is the client."""
    assert read(line).client is not None
    assert read(line).client[0] == client  # type: ignore[index] # asserted above


@pytest.mark.parametrize("bad", ["unknown", "_hidden", "garbage", "10.0.0.1:99999", "10.0.0.256"])
def test_walk_ends_before_an_entry_without_an_address(bad: str) -> None:
    """Who wrote what stands further to the left is not known then."""
    assert read(f"For: 192.0.2.1, {bad}, 10.0.0.1").client == ("10.0.0.1", 0)
    assert read(f"For: 192.0.2.1, {bad}").client is None
    assert read(f'Forwarded: for=192.0.2.1, for="{bad}", for=10.0.0.1').client == ("10.0.0.1", 0)
    assert read(f'Forwarded: for=192.0.2.1, for="{bad}"').client is None


def test_walk_ends_before_an_element_without_for() -> None:
    assert read("Forwarded: for=192.0.2.1, proto=https, for=10.0.0.1").client == ("10.0.0.1", 0)


def test_several_fields_are_one_list_in_their_order() -> None:
    """RFC 9110 §5.3: a proxy may add a line of its own behind the client's."""
    assert read("For: 203.0.113.9", "For: 192.0.2.1, 10.0.0.1", "For: 10.0.0.2").client == ("192.0.2.1", 0)
    assert read("Forwarded: for=203.0.113.9", "Forwarded: for=192.0.2.1").client == ("192.0.2.1", 0)


def test_first_entry_is_the_client_when_everybody_is_trusted() -> None:
    assert read("For: 203.0.113.9, 192.0.2.1", trusted=EVERYBODY).client == ("203.0.113.9", 0)
    assert read("Forwarded: for=203.0.113.9, for=192.0.2.1", trusted=EVERYBODY).client == ("203.0.113.9", 0)


def test_walk_goes_no_further_than_64_hops() -> None:
    hops = ", ".join(["10.0.0.1"] * 63)
    assert read(f"For: 192.0.2.1, {hops}").client == ("192.0.2.1", 0)
    assert read(f"For: 192.0.2.1, 10.0.0.2, {hops}").client == ("10.0.0.2", 0)


def test_nothing_is_believed_where_nothing_is_said() -> None:
    assert trusted_source({}, TRUSTED) == NOTHING
    assert read("For:", "Proto:", "Host: ,", "Prefix:") == NOTHING
    assert read("Forwarded:") == NOTHING


# ---- protocol, host and prefix


@pytest.mark.parametrize(
    ("value", "secure"),
    [("https", True), ("HTTPS", True), ("wss", True), ("http", False), ("ws", False), ("ftp", None), ("https:", None)],
)
def test_proto_tells_whether_the_client_speaks_tls(value: str, secure: bool | None) -> None:
    assert read("For: 192.0.2.1", f"Proto: {value}").secure is secure
    assert read(f'Forwarded: for=192.0.2.1;proto="{value}"').secure is secure


@pytest.mark.parametrize(
    ("nodes", "protos", "secure"),
    [
        ("192.0.2.1, 10.0.0.1", "https, http", True),
        ("203.0.113.9, 192.0.2.1", "https, http", False),
        ("203.0.113.9, 192.0.2.1, 10.0.0.1", "http, https, http", True),
        ("192.0.2.1, 10.0.0.1", "https", True),
        ("192.0.2.1", "https, http", False),
        ("192.0.2.1, 10.0.0.1, 10.0.0.2", "https, http", False),
        ("192.0.2.1, unknown, 10.0.0.1", "http, https, http", True),
        ("", "https, http", False),
    ],
)
def test_element_of_the_clients_hop_counts_or_else_the_last(nodes: str, protos: str, secure: bool) -> None:
    """Lists of one length were written by every proxy; of any other, the nearest proxy wrote the last element."""
    lines = [f"For: {nodes}"] if nodes else []
    assert read(*lines, f"Proto: {protos}").secure is secure


def test_host_and_prefix_belong_to_the_hop_too() -> None:
    source = read(
        "For: 203.0.113.9, 192.0.2.1, 10.0.0.1",
        "Host: evil.example, shop.example, inner:8080",
        "Prefix: /evil, /shop, /inner",
    )
    assert (source.host, source.prefix) == (b"shop.example", "/shop")


def test_forwarded_element_of_the_client_says_protocol_and_host() -> None:
    source = read(
        "Forwarded: for=203.0.113.9;proto=https;host=evil.example, "
        'for=192.0.2.1;proto=https;host="shop.example:8443", for=10.0.0.1;proto=http;host=inner'
    )
    assert source == Source(("192.0.2.1", 0), True, b"shop.example:8443", None)


def test_forwarded_element_may_leave_protocol_and_host_to_a_nearer_one() -> None:
    """Never to one further away, which nobody trusted has written."""
    assert read("Forwarded: for=192.0.2.1, for=10.0.0.1;proto=https").secure is True
    assert read("Forwarded: for=203.0.113.9;proto=https;host=evil.example, for=192.0.2.1") == Source(
        ("192.0.2.1", 0), None, None, None
    )


def test_forwarded_element_without_an_address_still_says_protocol_and_host() -> None:
    """A trusted proxy wrote it; only whom it names is not known."""
    source = read("Forwarded: for=203.0.113.9;proto=http, for=_hidden;proto=https;host=shop.example")
    assert source == Source(None, True, b"shop.example", None)


@pytest.mark.parametrize("host", ["", "a b", "a/b", "a@b", "a:b", "[::1", "a:80:90", "a\\b", "a\xe9", 'a"', "<script>"])
def test_bad_host_is_not_believed(host: str) -> None:
    """Applications make links of it: RFC 9110 §7.2 as for the Host field itself."""
    assert read("For: 192.0.2.1", f"Host: {host}").host is None


@pytest.mark.parametrize(
    ("value", "prefix"),
    [("/shop", "/shop"), ("/shop/", "/shop"), ("/a/b-1/c~d_e.f", "/a/b-1/c~d_e.f"), ("/", "")],
)
def test_prefix_is_a_path(value: str, prefix: str) -> None:
    assert read(f"Prefix: {value}").prefix == prefix
    assert read(f"Prefix: {value}", "Forwarded: for=192.0.2.1").prefix == prefix


@pytest.mark.parametrize(
    "value",
    [
        "shop", "//evil.example", "///", "/\\evil.example", "https://evil.example", "/a//b", "/a/../b", "/..", "/.",
        "/a?b", "/a#b", "/a b", "/a%2f", "/a;b", "/a:b", "/a@b", '/a"', "/a'", "/<b>", "/\xe9", "/a\tb", "/..//",
    ],
)  # fmt: skip
def test_prefix_that_leads_elsewhere_is_not_believed(value: str) -> None:
    """Applications put it before their links: two slashes would lead to another host, two dots upwards."""
    assert read(f"Prefix: {value}").prefix is None


# ---- the grammar of Forwarded


@pytest.mark.parametrize(
    ("value", "elements"),
    [
        (b"", []),
        (b",;, ;", []),
        (b"for=a", [{b"for": b"a"}]),
        (b"FOR=A;Proto=b;x-y=z", [{b"for": b"A", b"proto": b"b", b"x-y": b"z"}]),
        (b"for=a,for=b , for=c", [{b"for": b"a"}, {b"for": b"b"}, {b"for": b"c"}]),
        (b"for=a ; by=b;;", [{b"for": b"a", b"by": b"b"}]),
        (b'for="a,b;c=d"', [{b"for": b"a,b;c=d"}]),
        (b'for="a\\"b\\\\"', [{b"for": b'a"b\\'}]),
        (b'for=""', [{b"for": b""}]),
        (b"for=192.0.2.43, for=198.51.100.17;by=203.0.113.60;proto=http;host=example.com",
         [{b"for": b"192.0.2.43"},
          {b"for": b"198.51.100.17", b"by": b"203.0.113.60", b"proto": b"http", b"host": b"example.com"}]),
        (b'for="_gazonk"', [{b"for": b"_gazonk"}]),
        (b'For="[2001:db8:cafe::17]:4711"', [{b"for": b"[2001:db8:cafe::17]:4711"}]),
    ],
)  # fmt: skip
def test_rfc7239_4_elements_are_parsed(value: bytes, elements: list[dict[bytes, bytes]]) -> None:
    assert parse_forwarded(value) == elements


@pytest.mark.parametrize(
    "value",
    [
        b"for", b"for=", b"=a", b"for =a", b"for= a", b"for=a b", b"for=a=b", b"f/r=a", b"for=[::1]", b"for=a:80",
        b'for="a', b'for="a\\"', b'for="a"b', b'for=a"b"', b"for=a;for=b", b"for=a;FOR=b", b"192.0.2.1", b"for=a,b",
    ],
)  # fmt: skip
def test_rfc7239_4_what_breaks_the_grammar_is_refused_as_a_whole(value: bytes) -> None:
    assert parse_forwarded(value) is None


@pytest.mark.parametrize(
    "sent", ['for="', 'for=203.0.113.9;x="', 'for="\\', "for=203.0.113.9;", "for=203.0.113.9;for", "x=", 'a="b"c']
)
def test_client_that_breaks_the_grammar_is_not_believed(sent: str) -> None:
    """It hides what its proxy appends, but it is never taken for another."""
    assert read(f"Forwarded: {sent}, for=192.0.2.1").client in (None, ("192.0.2.1", 0))
    assert read(f'Forwarded: {sent}, for="[2001:db8::1]"').client in (None, ("2001:db8::1", 0))
    assert read(f"Forwarded: {sent}", "Forwarded: for=192.0.2.1").client == ("192.0.2.1", 0)
    assert read(f"Forwarded: {sent}", "Forwarded: for=10.0.0.1").client in (("10.0.0.1", 0), ("203.0.113.9", 0))


def test_field_that_breaks_the_grammar_ends_the_walk() -> None:
    """It is an entry without an address: what stands before it is not believed."""
    source = read("Forwarded: for=203.0.113.9;proto=https", 'Forwarded: for="', "Forwarded: for=10.0.0.1")
    assert source == Source(("10.0.0.1", 0), None, None, None)


def test_forwarded_beyond_4096_bytes_is_not_believed() -> None:
    padding = 4096 - len("for=192.0.2.1;x=")
    assert read(f"Forwarded: for=192.0.2.1;x={'a' * padding}").client == ("192.0.2.1", 0)
    assert read(f"Forwarded: for=192.0.2.1;x={'a' * (padding + 1)}") == NOTHING


# ---- any bytes

LINES = st.lists(
    st.tuples(
        st.sampled_from(FORWARDED_FIELDS),
        st.one_of(
            st.binary(max_size=60),
            st.lists(
                st.sampled_from(
                    [
                        b"192.0.2.1",
                        b"10.0.0.1",
                        b"for=",
                        b'"',
                        b"\\",
                        b",",
                        b";",
                        b" ",
                        b"proto=https",
                        b"host=a",
                        b"/a",
                    ]
                ),
                max_size=12,
            ).map(b"".join),
        ),
    ),
    max_size=6,
)


@given(LINES)
def test_any_bytes_give_values_that_are_fit_for_a_scope(lines: list[tuple[bytes, bytes]]) -> None:
    fields: dict[bytes, list[bytes]] = {}
    for name, value in lines:
        fields.setdefault(name, []).append(value)
    for trusted in (TRUSTED, EVERYBODY):
        client, secure, host, prefix = trusted_source(fields, trusted)
        assert client is None or (parse_node(client[0].encode()) == (client[0], 0) and 0 <= client[1] <= 65535)
        assert secure in (None, True, False)
        assert host is None or host.isascii()
        assert prefix is None or prefix == "" or (prefix[0] == "/" and prefix[1:2] not in ("", "/", "\\"))


@given(LINES)
def test_what_a_client_sends_changes_nothing_behind_a_proxy_that_adds_lines(lines: list[tuple[bytes, bytes]]) -> None:
    """Only protocol, host and prefix of a list that its proxy did not write can be the client's."""
    for added in ({b"x-forwarded-for": b"192.0.2.7"}, {b"forwarded": b"for=192.0.2.7"}):
        fields: dict[bytes, list[bytes]] = {}
        for name, value in [*lines, *added.items()]:
            if (name == b"forwarded") == (b"forwarded" in added):
                fields.setdefault(name, []).append(value)
        assert trusted_source(fields, TRUSTED).client == ("192.0.2.7", 0)


@pytest.mark.parametrize(
    "value",
    [
        b"10.0.0.1," * 7000, b"," * 65000, b"unknown," * 8000, b"for=10.0.0.1," * 5000, b"a=b;" * 16000,
        b'for="' + b"\\a" * 32000, b" " * 65000, b"for=" * 16000, b"a" * 65000,
    ],
    ids=lambda value: repr(value[:12]),
)  # fmt: skip
def test_head_full_of_hops_costs_little(value: bytes) -> None:
    """64 KiB, all a head holds, take milliseconds; a quadratic reader would take seconds."""
    before = time.process_time()
    fields = {b"x-forwarded-for": [value], b"x-forwarded-proto": [value], b"x-forwarded-host": [value]}
    trusted_source(fields, EVERYBODY)
    trusted_source({b"forwarded": [value]}, EVERYBODY)
    assert time.process_time() - before < 0.5
