"""Which addresses are connected to, and what is shown of a URL."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.domain.networks import NEVER, NOT_PUBLIC, PRIVATE, mistake_of, networks_of, refusal, shown

EVERYTHING = networks_of(("0.0.0.0/0", "::/0"))
ANY_PRIVATE = networks_of(("private",))

METADATA = [
    "169.254.169.254",
    "169.254.170.2",
    "::ffff:169.254.169.254",
    "::169.254.169.254",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::169.254.169.254",
    "::ffff:0:169.254.169.254",
    "2002:a9fe:a9fe::1",
    "2001:0:a9fe:a9fe::1",
    "2001:db8::5efe:169.254.169.254",
    "2001:db8::200:5efe:169.254.169.254",
    "fe80::1",
    "fe80::1%eth0",
    "fe80::a9fe:a9fe%1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "100.100.100.200",
    "192.0.0.192",
    "168.63.129.16",
]
UNUSABLE = ["0.0.0.0", "0.1.2.3", "::", "255.255.255.255", "224.0.0.1", "239.255.255.250", "ff02::1", "::ffff:0.0.0.0"]
INTERNAL = [
    "10.0.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "127.0.0.1",
    "127.8.8.8",
    "::1",
    "fc00::1",
    "fd12:3456::1",
    "::ffff:10.0.0.1",
    "::ffff:127.0.0.1",
    "64:ff9b::10.0.0.1",
]
SPECIAL = ["100.64.0.1", "192.0.2.1", "198.18.0.1", "240.0.0.1", "2001:db8::1", "2002:808:808::1", "fec0::1", "100::1"]
PUBLIC = ["8.8.8.8", "172.32.0.1", "192.169.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]


@pytest.mark.parametrize("address", METADATA + UNUSABLE)
def test_metadata_services_and_what_is_no_host_are_never_connected_to_whatever_is_allowed(address: str) -> None:
    for allowed in ((), ANY_PRIVATE, EVERYTHING):
        assert refusal(address, allowed) is not None


@pytest.mark.parametrize("address", INTERNAL)
def test_private_addresses_are_connected_to_where_they_are_allowed(address: str) -> None:
    assert "private address" in (refusal(address) or "")
    assert refusal(address, ANY_PRIVATE) is None


@pytest.mark.parametrize("address", SPECIAL)
def test_other_addresses_that_are_not_public_must_be_named(address: str) -> None:
    assert "not a public address" in (refusal(address) or "")
    assert refusal(address, ANY_PRIVATE) is not None
    assert refusal(address, EVERYTHING) is None


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_connected_to(address: str) -> None:
    assert refusal(address) is None


def test_a_network_allows_what_is_in_it_and_no_other() -> None:
    allowed = networks_of(("10.20.0.0/16",))
    assert refusal("10.20.255.1", allowed) is None
    assert refusal("::ffff:10.20.0.1", allowed) is None
    assert refusal("64:ff9b::10.20.0.1", allowed) is None
    for other in ("10.21.0.1", "127.0.0.1", "::1", "192.168.0.1"):
        assert refusal(other, allowed) is not None


def test_a_tunnel_to_a_private_address_must_be_allowed_at_both_ends() -> None:
    assert refusal("2002:a00:1::1", networks_of(("2002::/16",))) is not None
    assert refusal("2002:a00:1::1", networks_of(("10.0.0.0/8",))) is not None
    assert refusal("2002:a00:1::1", networks_of(("2002::/16", "10.0.0.0/8"))) is None


@pytest.mark.parametrize(
    "text", ["", "localhost", "10.0.0.1:80", "010.0.0.1", "1", "0x7f000001", "127.1", "[::1]", "x"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    assert refusal(text, EVERYTHING) is not None


addresses = st.one_of(
    st.integers(0, 2**32 - 1).map(IPv4Address),
    st.integers(0, 2**128 - 1).map(IPv6Address),
    # Few of all addresses are in a special network; these are.
    st.sampled_from([network for network, _ in NEVER] + [*PRIVATE, *NOT_PUBLIC]).flatmap(
        lambda network: st.integers(0, network.num_addresses - 1).map(lambda offset: network[offset])
    ),
)


@given(addresses)
@example(ip_address("192.88.99.1"))
@example(ip_address("5f00::1"))
def test_nothing_is_connected_to_that_python_does_not_call_global(address: IPv4Address | IPv6Address) -> None:
    if not address.is_global or address.is_multicast:
        mapped = isinstance(address, IPv6Address) and address.ipv4_mapped
        if not (mapped and mapped.is_global):
            assert refusal(str(address)) is not None


@given(addresses)
def test_what_is_never_connected_to_is_in_the_table_or_leads_there(address: IPv4Address | IPv6Address) -> None:
    if any(address in network for network, _ in NEVER):
        assert "never connected to" in (refusal(str(address), EVERYTHING) or "") or "zone" in str(address)


def test_networks_are_read_as_they_are_written() -> None:
    assert networks_of(("private",)) == PRIVATE
    assert [str(each) for each in networks_of(("10.0.0.0/8", "fd00::/8"))] == ["10.0.0.0/8", "fd00::/8"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("10.0.0.1/8", "expected a network"),
        ("cluster.local", "expected a network"),
        ("", "expected a network"),
        ("169.254.0.0/16", "never connected to"),
        ("169.254.169.254/32", "never connected to"),
        ("fe80::/64", "never connected to"),
        ("224.0.0.0/8", "never connected to"),
    ],
)
def test_a_network_that_is_none_or_that_nothing_may_be_in_is_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        networks_of((text,))


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("169.254.169.254", "never connected to"),
        ("127.0.0.1", "private address"),
        ("::1", "private address"),
        ("fe80::1%25eth0", "zone"),
        ("localhost", "private address"),
        ("app.localhost.", "private address"),
        ("2130706433", "unusual form"),
        ("0x7f000001", "unusual form"),
        ("0177.0.0.1", "unusual form"),
        ("127.1", "unusual form"),
        ("127.0.0.0x1", "unusual form"),
        ("169.254.169.254.", "never connected to"),
    ],
)
def test_a_host_to_which_nothing_would_be_sent_is_told_when_it_is_written_down(host: str, says: str) -> None:
    assert says in (mistake_of(host) or "")


@pytest.mark.parametrize("host", ["ci.example", "8.8.8.8", "deployer.ml.svc.cluster.local", "xn--bcher-kva.example"])
def test_a_host_that_can_be_looked_up_is_no_mistake(host: str) -> None:
    assert mistake_of(host) is None


def test_loopback_is_no_mistake_where_it_is_allowed() -> None:
    for host in ("localhost", "127.0.0.1", "::1"):
        assert mistake_of(host, ANY_PRIVATE) is None


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("https://ci.example/hooks/7", "https://ci.example/hooks/7"),
        ("https://ci.example/h?token=s3cret&x=", "https://ci.example/h?token=***&x=***"),
        ("https://ci.example/h?s3cret", "https://ci.example/h?***"),
        ("https://ann:s3cret@ci.example:8443/", "https://***@ci.example:8443/"),
        ("https://s3cret@ci.example/#part", "https://***@ci.example/"),
        ("https://[::1", "***"),
        ("http://x:99999999/", "***"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, seen: str) -> None:
    assert shown(url) == seen
