"""Which addresses a receiver of our messages may have: a table of networks, and what may be shown of a URL.

A URL names a host, and a host's addresses can change between two look-ups; therefore the rules judge the address that
is about to be connected to, each time. ``mistake_of`` tells what can be told when somebody writes a URL down.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit, urlunsplit

from app.domain.endpoints import ANY_PRIVATE

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MASK = "***"

NEVER: tuple[tuple[Network, str], ...] = tuple(
    (ip_network(network), why)
    for network, why in (
        # RFC 3927: the metadata services of clouds, which hand out credentials, are there.
        ("169.254.0.0/16", "link-local, where clouds keep their metadata services"),
        ("fe80::/10", "link-local"),
        # Metadata and other services of clouds outside link-local. Azure's has a public address.
        ("168.63.129.16/32", "a service of the cloud (Azure)"),
        ("100.100.100.200/32", "a metadata service (Alibaba Cloud)"),
        ("192.0.0.192/32", "a metadata service (Oracle Cloud)"),
        ("fd00:ec2::/32", "a service of the cloud (AWS)"),
        ("fd20:ce::254/128", "a metadata service (Google Cloud)"),
        ("224.0.0.0/4", "multicast"),
        ("ff00::/8", "multicast"),
        ("255.255.255.255/32", "broadcast"),
        # RFC 1122 section 3.2.1.3: connecting to "this host" reaches loopback.
        ("0.0.0.0/8", "unspecified"),
        ("::/128", "unspecified"),
    )
)
"""Nobody may have a receiver there, whatever is allowed."""

PRIVATE: tuple[Network, ...] = tuple(
    ip_network(network)
    for network in (
        "10.0.0.0/8",  # RFC 1918
        "172.16.0.0/12",
        "192.168.0.0/16",
        "fc00::/7",  # RFC 4193
        "127.0.0.0/8",
        "::1/128",
    )
)

NOT_PUBLIC: tuple[Network, ...] = tuple(
    ip_network(network)
    for network in (
        # IANA's registry of special-purpose IPv4 addresses, without what is above.
        "100.64.0.0/10",  # shared by carriers, and by some clusters: allowed if it is named
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "240.0.0.0/4",
        # Of IPv6, only 2000::/3 is given out (RFC 4291 section 2.4); these parts of it are special.
        "::/3",
        "4000::/2",
        "8000::/1",
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "3fff::/20",
    )
)

_TRANSLATED = tuple(IPv6Network(prefix) for prefix in ("64:ff9b::/96", "::ffff:0:0:0/96"))
"""RFC 6052 and RFC 7915: connecting there reaches the IPv4 address in the last 32 bits, and nothing else."""


def refusal(address: str, allowed: tuple[Network, ...] = ()) -> str | None:
    """Why an address must not be connected to; none if it may be.

    Args:
        address: as the system writes it, without a port.
        allowed: the networks that the receiver may be in although they are not public.
    """
    if "%" in address:
        return f"{address} has a zone, as only link-local addresses have"
    try:
        ip = _reached(ip_address(address))
    except ValueError:
        return f"{address[:64]!r} is no address"
    judged = (ip, *_carried(ip))
    for each in judged:
        for network, why in NEVER:
            if each in network:
                return f"{address} is {why}: it is never connected to"
    for each in judged:
        if any(each in network for network in allowed):
            continue
        if any(each in network for network in PRIVATE):
            return f"{address} is a private address, and allowed_networks does not have it"
        if any(each in network for network in NOT_PUBLIC):
            return f"{address} is not a public address, and allowed_networks does not have it"
    return None


@lru_cache(maxsize=1024)
def networks_of(written: tuple[str, ...]) -> tuple[Network, ...]:
    """The networks that ``allowed_networks`` names: CIDRs, or ``private``.

    Raises:
        ValueError: one of them is none, or one that is never connected to; says which.
    """
    networks: list[Network] = []
    for text in written:
        if text == ANY_PRIVATE:
            networks += PRIVATE
            continue
        try:
            network = ip_network(text)
        except ValueError:
            raise ValueError(f"{text[:64]!r}: expected a network, as 10.20.0.0/16, or {ANY_PRIVATE!r}") from None
        for never, why in NEVER:
            if never.version == network.version and network.subnet_of(never):  # type: ignore[arg-type]  # of one version
                raise ValueError(f"{text}: is {why}: it is never connected to")
        networks.append(network)
    return tuple(networks)


def mistake_of(host: str, allowed: tuple[Network, ...] = ()) -> str | None:
    """Why nothing would ever be sent to a URL's host, as far as it can be told without a look-up."""
    host = host.rstrip(".")
    if _is_address(host):
        return refusal(host, allowed)
    if _is_number(host.rpartition(".")[2]):
        return f"{host} is an address in an unusual form; expected four numbers, as 192.0.2.1"
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761 section 6.3
        return refusal("127.0.0.1", allowed) and refusal("::1", allowed)
    return None


def shown(url: str) -> str:
    """A URL for people and logs: who signs in with it, and each value of its query, are masked."""
    parts = _split(url)
    if parts is None:
        return MASK
    host = parts.netloc.rpartition("@")[2]
    user = f"{MASK}@" if "@" in parts.netloc else ""
    query = "&".join(_masked(part) for part in parts.query.split("&")) if parts.query else ""
    return urlunsplit((parts.scheme, user + host, parts.path, query, ""))


def _masked(parameter: str) -> str:
    name, has_value, _ = parameter.partition("=")
    return f"{name}={MASK}" if has_value else MASK  # a secret may stand there alone


def _reached(ip: Address) -> Address:
    """The address that is reached by connecting to ``ip``."""
    if isinstance(ip, IPv4Address):
        return ip
    if ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    if any(ip in network for network in _TRANSLATED):
        return _last_32_bits(ip)
    return ip


def _carried(ip: Address) -> Iterable[Address]:
    """The IPv4 addresses to which a tunnel or translator might carry on what is sent to ``ip``."""
    if isinstance(ip, IPv4Address) or int(ip) <= 1:
        return ()
    found: list[Address] = []
    if ip.sixtofour is not None:
        found.append(ip.sixtofour)
    if ip.teredo is not None:
        found += ip.teredo
    if ip in IPv6Network("64:ff9b:1::/48") or ip in IPv6Network("::/96"):  # RFC 8215; RFC 4291 section 2.5.5.1
        found.append(_last_32_bits(ip))
    if (int(ip) >> 32) & 0xFDFFFFFF == 0x5EFE:  # RFC 5214 section 6.1: ISATAP
        found.append(_last_32_bits(ip))
    return found


def _last_32_bits(ip: IPv6Address) -> IPv4Address:
    return IPv4Address(int(ip) & 0xFFFFFFFF)


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _is_address(host: str) -> bool:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _is_number(label: str) -> bool:
    """Whether a host that ends so is an address to some resolvers, as ``0x7f.1`` (WHATWG URL section 3.5)."""
    return label.isdecimal() or label.lower().startswith("0x")
