"""Where a webhook may go: to the public internet over https, as its URL says and as every address behind it says.

The ingress asks ``check`` when a job is submitted; workers ask again before each delivery, and ``is_public`` of each
address they connect to, since a name may lead anywhere and elsewhere the next time. Nothing is resolved here.

The ranges are named one by one: what Python calls global differs between its releases, and none knows of clouds.
"""

from __future__ import annotations

import re
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

# One strict form, so that no two parsers can see two hosts in it: no user, no backslash, no escapes before the path.
_URL = re.compile(
    r"(?P<scheme>[A-Za-z]+)://(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?(?P<rest>/[!\"$-~]*)?",
    re.ASCII,
)
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PORTS = frozenset({"", "443", "8443"})

# Names that mean something inside a network only: RFC 6761, 6762, 7686, 8375, ICANN's ``internal``, and the usual ones.
_INSIDE = frozenset(
    {
        *("localhost", "localdomain", "local", "internal", "intranet", "private", "lan", "home", "corp"),
        *("svc", "consul", "arpa", "test", "invalid", "onion"),
    }
)

_REFUSED_4 = tuple(
    map(
        IPv4Network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
            "169.254.0.0/16",  # link-local, where clouds keep their metadata
            "168.63.129.16/32",  # Azure's, by a public address
            *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
            *("224.0.0.0/4", "240.0.0.0/4"),
        ),
    )
)
# Of IPv6 only what is handed out to the world, without Teredo, 6to4 and their kind, which carry another address.
_GLOBAL_6 = IPv6Network("2000::/3")
_REFUSED_6 = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))
_NAT64 = IPv6Network("64:ff9b::/96")


def check(url: str, *, allow_private: bool) -> None:
    """Raises ``ValueError`` unless webhooks may go there.  Its text names the host at most: a path may be a secret."""
    form = _URL.fullmatch(url)
    if form is None:
        raise ValueError("Input should be an https URL in printable ASCII without user, password and fragment")
    scheme, host, port = form["scheme"].lower(), form["host"].lower(), form["port"] or ""
    if scheme != "https" and not (allow_private and scheme == "http"):
        raise ValueError(f"Input should be an https URL, not {scheme}")
    if port and not 0 < int(port) < 65_536:
        raise ValueError(f"Input should be a URL with a port from 1 to 65535, not {port}")
    if not (allow_private or port in _PORTS):
        raise ValueError(f"Input should be a URL with the port 443 or 8443, not {port}")
    if not (_is_outside(host) or allow_private):
        raise ValueError(f"Input should be a URL on the public internet, which {host!r} is not")


def shown(url: str) -> str:
    """Scheme, host and port of a URL: what may be shown of it."""
    return "/".join(url.split("/", 3)[:3])


def is_public(address: str) -> bool:
    """Whether this address is one of the public internet's.  IPv6 that carries IPv4 is judged by that."""
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        inner = IPv4Address(int(ip) & 0xFFFF_FFFF) if ip in _NAT64 else ip.ipv4_mapped
        if inner is None:
            return ip in _GLOBAL_6 and not any(ip in refused for refused in _REFUSED_6)
        ip = inner
    return not any(ip in refused for refused in _REFUSED_4)


def _is_outside(host: str) -> bool:
    """Whether a host may be on the public internet.  Raises ``ValueError`` for what is neither name nor address."""
    with suppress(ValueError):
        return is_public(str(IPv6Address(host[1:-1])) if host.startswith("[") else host)
    last = host.rpartition(".")[2]
    if not _NAME.fullmatch(host) or _NUMERIC.fullmatch(last):  # 127.1, 0x7f000001: C libraries take them for addresses
        raise ValueError(f"Input should be a URL with a host name or an address in its usual form, not {host[:80]!r}")
    return "." in host and last not in _INSIDE
