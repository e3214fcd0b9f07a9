"""The Redis servers of WEBSOCKET_REDIS_URL, and the one of them on which a group lives."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Final, NamedTuple, TypeVar
from urllib.parse import urlsplit

EXAMPLE: Final = "redis://localhost:6379/0"
SENTINEL_EXAMPLE: Final = "redis+sentinel://one:26379,two:26379/service/0"

_SENTINEL_PORT: Final = 26379

# A host, a port and a database. All are optional.
_HOST: Final = re.compile(r"[^/,]*(/\d*)?")

T = TypeVar("T")


class Address(NamedTuple):
    """A server: its own address, or that of the Sentinels that know it as a service."""

    #: Host, port and database, or those of the Sentinels, without a password.
    name: str
    #: The URL for redis-py. With Sentinels, it has no host.
    url: str
    service: str = ""
    sentinels: tuple[tuple[str, int], ...] = ()


def parse(url: str) -> Address:
    """Return the address in a URL; raise `ValueError`, which may show it, if it is malformed."""
    parts = urlsplit(url)
    scheme = parts.scheme.replace("valkey", "redis", 1)
    login, at, hosts = parts.netloc.rpartition("@")
    if scheme == "redis+sentinel":
        _, service, database = (parts.path + "/0").split("/")[:3]
        int(database)
        if not service:
            raise ValueError("It names no service.")
        sentinels = tuple(map(_host_and_port, hosts.split(",")))
        url = f"redis://{login}{at}/{database}?{parts.query}"
        return Address(f"{hosts}/{service}/{database}", url, service, sentinels)
    is_socket = scheme == "unix" and not hosts
    is_host = scheme in ("redis", "rediss") and _HOST.fullmatch(hosts + parts.path)
    if not (is_socket or is_host) or parts.port == 0:
        raise ValueError("It does not name a server.")
    return Address(hosts + parts.path or "localhost", scheme + url[len(parts.scheme) :])


def _host_and_port(host: str) -> tuple[str, int]:
    parts = urlsplit(f"//{host}")
    if not parts.hostname or parts.port == 0:
        raise ValueError("It does not name a Sentinel.")
    return parts.hostname, parts.port or _SENTINEL_PORT


def parse_all(urls: str) -> list[Address]:
    return [parse(url) for url in urls.split()]


def problem(urls: str) -> str | None:
    """Return what is wrong with WEBSOCKET_REDIS_URL, without any of it: it may have passwords."""
    found = urls.split() or [""]
    for number, url in enumerate(found, 1):
        try:
            parse(url)
        except ValueError:  # For example, a "/" in a password makes the port invalid.
            example = SENTINEL_EXAMPLE if "+sentinel:" in url else EXAMPLE
            kind = f"such as {example}, in which a password is percent-encoded"
            if len(found) == 1:
                return f"not a URL {kind}"
            return f"{len(found)} URLs, of which number {number} is not one {kind}"
    return None


def choose(group: str, servers: Mapping[str, T]) -> T:
    """Return the server of a group, among servers by their names.

    This is rendezvous hashing: each server has a weight for each group, and the heaviest one gets
    it. So a new server takes its share of the groups, and all others stay where they are.
    """
    if len(servers) == 1:
        return next(iter(servers.values()))
    return servers[max(servers, key=lambda name: _weight(name, group))]


def _weight(name: str, group: str) -> bytes:
    # Not by hash(), which differs between processes.
    return hashlib.blake2b(f"{name} {group}".encode(), digest_size=8).digest()
