"""Distinguished names as RFC 4514 writes them."""

from __future__ import annotations

import pytest

from asgiws.server.tls.distinguished_name import Name, encode_name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        # §4, the RFC's own examples
        (
            ((("domainComponent", "net"),), (("domainComponent", "example"),), (("userId", "jsmith"),)),
            "UID=jsmith,DC=example,DC=net",
        ),
        (
            (
                (("domainComponent", "net"),),
                (("domainComponent", "example"),),
                (("organizationalUnitName", "Sales"), ("commonName", "J.  Smith")),
            ),
            "OU=Sales+CN=J.  Smith,DC=example,DC=net",
        ),
        (
            ((("domainComponent", "net"),), (("commonName", 'James "Jim" Smith, III'),)),
            'CN=James \\"Jim\\" Smith\\, III,DC=net',
        ),
        (((("commonName", "Lučić"),),), "CN=Lučić"),
        (((("1.3.6.1.4.1.1466.0", "Hi"),),), "1.3.6.1.4.1.1466.0=#0c024869"),
        # §2.1: the empty name
        ((), ""),
    ],
)
def test_name_is_written_as_the_rfc_shows(name: Name, text: str) -> None:
    assert encode_name(name) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a+b", "a\\+b"),
        ("a;b<c>d\\e", "a\\;b\\<c\\>d\\\\e"),
        ("#1", "\\#1"),
        ("a#1", "a#1"),
        (" a", "\\ a"),
        ("a ", "a\\ "),
        (" ", "\\ "),
        ("  ", "\\ \\ "),
        ("a b", "a b"),
        ("a\0b", "a\\00b"),
        ("a=b", "a=b"),
        ("\\ ", "\\\\\\ "),
        ("", ""),
    ],
)
def test_value_is_escaped(value: str, text: str) -> None:
    """§2.4"""
    assert encode_name(((("commonName", value),),)) == "CN=" + text


def test_types_with_a_registered_name_have_it_and_others_their_number() -> None:
    """§2.3: a name that the registry does not know would be a guess."""
    assert encode_name(((("emailAddress", "a@example.com"),),)) == "emailAddress=a@example.com"
    assert encode_name(((("1.2.3", "x" * 200),),)) == "1.2.3=#0c81c8" + "78" * 200
