"""The load for what a machine can hold: large groups, and sockets that only exist."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.load import (
    AT_ONCE,
    Figures,
    Group,
    Member,
    all_joined,
    close_all,
    connect,
    percentile,
)
from benchmarks.servers import Server, ServerFailed, kib

#: Members of each group, while sockets only exist.
MEMBERS = 100

#: Seconds for a message to all members.
PATIENCE = 60.0

#: Seconds for a handshake, which may wait while Python collects the garbage of so many sockets.
HANDSHAKE = 60.0

#: Files that a process has open beside its connections.
OTHER_FILES = 500


async def large(server: Server, members: int, seconds: float) -> Figures:
    """Publish to a large group, one message after the other, while another socket echoes."""
    group = Group([server], members)
    group.patience = PATIENCE
    try:
        await group.open()
        await group.run(0)  # The first message may wait for what the joins have left to do.
        group.reset()
        probe = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.probe", str(server.port)),
            stdout=asyncio.subprocess.PIPE,
        )
        # Until it is on its way: the connection and its first echo take some milliseconds.
        await asyncio.sleep(0.3)
        await group.run(seconds)
        probe.terminate()
        output, _ = await probe.communicate()
    finally:
        group.close()
    if probe.returncode:
        raise server.failed(f"The echoes ended with {probe.returncode}.")
    echoes = json.loads(output)
    # Of each message, the members got the last one's delay last.
    lasts = group.delays[members - 1 :: members]
    return {
        "last_ms": percentile(lasts, 50) * 1e3,
        "echo_p50_ms": percentile(echoes, 50) * 1e3,
        "echo_p99_ms": percentile(echoes, 99) * 1e3,
        **{name: figure for name, figure in group.figures().items() if name == "cpu_us"},
    }


async def sockets(server: Server, cookies: Sequence[str], seconds: float, resume: bool) -> Figures:
    """Open a socket for each cookie, and measure what they take while they only exist.

    An empty cookie is that of a visitor who is not logged in.
    """
    warm_up = [Member() for _ in range(min(AT_ONCE, len(cookies)))]
    await open_all(warm_up, server, cookies, resume)
    close_all(warm_up)
    await asyncio.sleep(0.5)
    members = [Member() for _ in cookies]
    before = memory(server)
    await open_all(members, server, cookies, resume)
    await asyncio.sleep(1.5)
    after = memory(server)
    cpu = server.cpu()
    await asyncio.sleep(seconds)
    cpu = server.cpu() - cpu
    lost = sum(member.lost for member in members)
    close_all(members)
    if lost:
        raise server.failed(f"{lost} of {len(members)} connections were lost.")
    taken = {kind: (after[kind] - before[kind]) / len(members) / 1024 for kind in before}
    # The kernel has as much for the clients' ends.
    taken["kernel_kib"] /= 2
    return {
        **taken,
        "base_mib": before["rss_kib"] / 2**20,
        "idle_us": cpu / len(members) / seconds * 1e6,
        "sockets": len(members),
    }


def memory(server: Server) -> Figures:
    """Return the bytes of the process, and of the kernel for all processes."""
    return {
        "rss_kib": server.memory("VmRSS"),
        "pss_kib": server.memory("Pss"),
        "kernel_kib": kib(Path("/proc/meminfo"), "Slab") * 1024,
    }


async def open_all(
    members: Sequence[Member], server: Server, cookies: Sequence[str], resume: bool
) -> None:
    """Open sockets in rooms, each with a cookie of its own."""
    query = "?resume=" if resume else ""

    async def come(number: int, member: Member) -> None:
        path = f"/idle/room.{number // MEMBERS}/{query}"
        headers = {"Cookie": cookies[number]} if cookies[number] else None
        await connect(member, server, path, headers, HANDSHAKE)

    for start in range(0, len(members), AT_ONCE):
        batch = list(enumerate(members))[start : start + AT_ONCE]
        await asyncio.gather(*(come(number, member) for number, member in batch))
    await all_joined(members, server)


def most_sockets() -> int:
    """Return how many sockets one process may have open here, and another for their clients.

    By the limit of files, and by memory: 100 KiB for both ends of each, in half of what is free.
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = kib(Path("/proc/meminfo"), "MemAvailable")
    most = min(files - OTHER_FILES, free // 2 // 100)
    if most < 1:
        raise ServerFailed(f"No socket may be opened: there are {files} files.")
    return most
