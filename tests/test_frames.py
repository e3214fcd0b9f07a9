"""What is right and wrong on the wire (RFC 6455): uvicorn's class and websocket.fast agree."""

import contextlib
import random
import socket
import struct
from collections.abc import Iterator

import pytest
from conftest import Project, Server
from sites import RawClient, frame, quiet, serving

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

CLASSES = ["websockets-sansio", "websocket.fast:Protocol"]

END = frame(CLOSE, b"\x03\xe8")


@pytest.fixture(scope="module")
def servers(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    folder = tmp_path_factory.mktemp("frames")
    with (
        serving(project, folder / "0", UVICORN_WS=CLASSES[0]) as default,
        serving(project, folder / "1", UVICORN_WS=CLASSES[1]) as fast,
    ):
        yield [default, fast]


def code(number: int, reason: bytes = b"") -> bytes:
    return struct.pack("!H", number) + reason


def unpack(data: bytes) -> list[tuple[int, bytes]]:
    """Return the frames that a server has sent; of a close with an error, the code alone."""
    frames = []
    while data:
        assert data[0] & 0x80 and not data[0] & 0x70
        opcode, size, start = data[0] & 15, data[1], 2
        if size > 125:
            start = 4 if size == 126 else 10
            size = int.from_bytes(data[2:start], "big")
        payload = data[start : start + size]
        assert len(payload) == size
        if opcode == CLOSE and payload[:2] in (code(1002), code(1007), code(1009)):
            payload = payload[:2]
        frames.append((opcode, payload))
        data = data[start + size :]
    return frames


def answers(
    server: Server, data: bytes, cuts: list[int], expected: list[tuple[int, bytes]] | None = None
) -> list[tuple[int, bytes]]:
    """Return what the echo view's server answers to data that comes in pieces.

    A client that expects echoes waits for them before it closes the connection.
    """
    client = RawClient(server, "/echo/")
    client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    received = b""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # It has said what is wrong.
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            client.send(data[start:end])
        if expected is not None:
            size = sum(len(frame(*part, masked=False)) for part in expected)
            while len(received) < size:
                chunk = client.socket.recv(size - len(received))
                assert chunk, received
                received += chunk
            client.send(END)
    received += client.read_to_end()
    client.close()
    return unpack(received)


# --- case by case ------------------------------------------------------------------------------

ENDED = (CLOSE, code(1000))


def rsv(bits: int, data: bytes) -> bytes:
    return bytes([data[0] | bits << 4]) + data[1:]


def cases() -> Iterator[tuple[str, bytes, list[tuple[int, bytes]]]]:
    """Yield the name of a case, what the client sends, and what it gets."""
    wrong = [(CLOSE, code(1002))]
    no_text = [(CLOSE, code(1007))]
    ended = ENDED
    for size in (0, 125, 126, 127, 65535, 65536, 300_000):
        text, data = b"*" * size, bytes(size)
        yield f"text of {size}", frame(TEXT, text) + END, [(TEXT, text), ended]
        yield f"bytes of {size}", frame(BINARY, data) + END, [(BINARY, data), ended]
    for size in (0, 1, 125):
        data = bytes(range(size))
        yield f"ping of {size}", frame(PING, data) + END, [(PONG, data), ended]
        yield f"pong of {size}", frame(PONG, data) + END, [ended]
    for opcode in (CLOSE, PING, PONG):
        yield f"control {opcode} too long", frame(opcode, code(1000) + bytes(124)), wrong
        yield f"control {opcode} in fragments", frame(opcode, code(1000), fin=False), wrong
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        for data in (b"", b"data"):
            yield f"opcode {opcode}, {data!r}", frame(opcode, data) + END, wrong
    for bits in range(1, 8):
        for opcode in (TEXT, BINARY, PING, PONG, CLOSE):
            yield f"reserved {bits} of {opcode}", rsv(bits, frame(opcode, code(1000))), wrong
    yield "no mask", frame(TEXT, b"text", masked=False), wrong

    def fragments(*parts: bytes, kind: int = TEXT, between: bytes = b"") -> bytes:
        frames = [frame(kind if n == 0 else 0, part, fin=False) for n, part in enumerate(parts)]
        last = frame(0, parts[-1]) if len(parts) > 1 else frame(kind, parts[0])
        return between.join([*frames[:-1], last])

    for kind in (TEXT, BINARY):
        whole = [(kind, b"abc"), ended]
        yield f"fragments {kind}", fragments(b"a", b"b", b"c", kind=kind) + END, whole
        yield f"empty fragments {kind}", fragments(b"", b"abc", b"", kind=kind) + END, whole
        yield (
            f"fragments of nothing {kind}",
            fragments(b"", b"", kind=kind) + END,
            [
                (kind, b""),
                ended,
            ],
        )
        yield (
            f"pings between {kind}",
            fragments(b"a", b"bc", kind=kind, between=frame(PING, b"p")) + END,
            [(PONG, b"p"), *whole],
        )
    large = b"x" * 50_000
    yield "large fragments", fragments(large, large, large) + END, [(TEXT, large * 3), ended]
    yield "a continuation of nothing", frame(CONTINUATION, b"a") + END, wrong
    yield "an open continuation of nothing", frame(CONTINUATION, b"a", fin=False) + END, wrong
    yield "a message in a message", frame(TEXT, b"a", fin=False) + frame(TEXT, b"b") + END, wrong
    yield "a second end", fragments(b"a", b"b") + frame(0, b"c") + END, [(TEXT, b"ab"), *wrong]

    for text in ("é", "κόσμε", "\U0010ffff", "\ud7ff\ue000\ufffd", "\0"):
        data = text.encode()
        parts = fragments(*(data[n : n + 1] for n in range(len(data))))
        yield f"text {data!r}", frame(TEXT, data) + parts + END, [(TEXT, data)] * 2 + [ended]
    for data in (
        *(b"\xff", b"\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80"),
        *(b"\xce\xba\xed\xa0\x80edited", b"a\x80", b"\xe0\x80\xaf"),
    ):
        yield f"no text {data!r}", frame(TEXT, data), no_text
        yield f"no text {data!r} in fragments", fragments(b"a", data), no_text

    yield "close without a code", frame(CLOSE, b""), [(CLOSE, b"")]
    yield "close with half a code", frame(CLOSE, b"\x03"), wrong
    for number in (1000, 1001, 1002, 1003, 1007, 1011, 1012, 1014, 3000, 3999, 4000, 4999):
        yield f"close {number}", frame(CLOSE, code(number)), [(CLOSE, code(number))]
    for number in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535):
        yield f"close {number}", frame(CLOSE, code(number)), wrong
    reason = code(1000, b"*" * 123)
    yield "close with a reason", frame(CLOSE, reason), [(CLOSE, reason)]
    yield "close with a bad reason", frame(CLOSE, code(1000, b"\xff")), no_text
    yield "after the close", END + frame(TEXT, b"late") + frame(PING, b"late"), [ended]
    yield (
        "two messages, then an error",
        frame(TEXT, b"a") * 2 + frame(3, b""),
        [
            *[(TEXT, b"a")] * 2,
            *wrong,
        ],
    )


CASES = list(cases())


@pytest.mark.parametrize("number", range(len(CLASSES)), ids=CLASSES)
def test_each_class_answers_as_the_rfc_says(servers: list[Server], number: int) -> None:
    with quiet(servers[number]):
        for name, data, expected in CASES:
            waits = data.endswith(END) and expected[-1] == ENDED
            sent = data.removesuffix(END) if waits else data
            for cuts in [[], list(range(1, len(sent)))] if 0 < len(sent) < 200 else [[]]:
                received = answers(servers[number], sent, cuts, expected[:-1] if waits else None)
                assert same(received, expected), (name, cuts, received)


def same(received: list[tuple[int, bytes]], expected: list[tuple[int, bytes]]) -> bool:
    """Compare; messages before an error may be lost, because the connection ends at once."""
    if expected[-1] in ((CLOSE, code(1002)), (CLOSE, code(1007))):
        return received[-1:] == expected[-1:] and expected[: len(received) - 1] == received[:-1]
    return received == expected


# --- by chance ---------------------------------------------------------------------------------

SEQUENCES = 150


def sequence(seed: int) -> tuple[bytes, list[int], list[tuple[int, bytes]]]:
    """Return what a client sends, where it is cut, and the answers: messages, pongs, the close."""
    chance = random.Random(seed)
    sent, messages, pongs = b"", [], []

    def control() -> bytes:
        data = chance.randbytes(chance.choice([0, 4, 125]))
        if chance.random() < 0.5:
            return frame(PONG, data)
        pongs.append((PONG, data))
        return frame(PING, data)

    for _ in range(chance.randrange(6)):
        kind = chance.choice([TEXT, BINARY])
        data = chance.randbytes(chance.choice([0, 1, 60, 200, 70_000]))
        if kind == TEXT:
            data = data.decode("latin-1").encode()
        messages.append((kind, data))
        pieces = chance.choice([1, 1, 2, 5])
        cuts = sorted(chance.randrange(len(data) + 1) for _ in range(pieces - 1))
        for number, (start, end) in enumerate(zip([0, *cuts], [*cuts, len(data)], strict=True)):
            opcode = CONTINUATION if number else kind
            sent += frame(opcode, data[start:end], fin=number == pieces - 1)
            sent += control() if chance.random() < 0.3 else b""
    bad, close = chance.choice(
        [
            (frame(chance.choice([3, 7, 11, 15]), b"a"), 1002),
            (frame(TEXT, b"\xff"), 1007),
            (frame(CONTINUATION, b""), 1002),
            (rsv(chance.randrange(1, 8), frame(TEXT, b"a")), 1002),
            (frame(CLOSE, code(1005)), 1002),
            (frame(CLOSE, code(4000)), 4000),
            (frame(BINARY, bytes(5)) * 3 + frame(CLOSE, code(1000)), 1000),
        ]
    )
    sent += bad
    messages += [(BINARY, bytes(5))] * 3 if close == 1000 else []
    cuts = sorted(chance.randrange(len(sent)) for _ in range(chance.choice([0, 1, 9])))
    return sent, cuts, [*messages, *pongs, (CLOSE, code(close))]


@pytest.mark.parametrize("number", range(len(CLASSES)), ids=CLASSES)
def test_each_class_answers_random_frames_in_order(servers: list[Server], number: int) -> None:
    with quiet(servers[number]):
        for seed in range(SEQUENCES):
            sent, cuts, expected = sequence(seed)
            received = answers(servers[number], sent, cuts)
            assert received[-1:] == expected[-1:], seed
            for kinds in ((TEXT, BINARY), (PONG,)):
                # What comes just before the end may be lost, because nobody waits for it.
                got = [part for part in received if part[0] in kinds]
                assert got == [part for part in expected if part[0] in kinds][: len(got)], seed
