"""Send echoes until told to end, then print their delays: python -m benchmarks.probe PORT

It is a process of its own, so that the load's other work does not delay what it measures.
"""

import json
import signal
import socket
import sys
import time

#: Seconds between two echoes.
PAUSE = 0.002

HANDSHAKE = """GET /ws/ HTTP/1.1\r
Host: 127.0.0.1:{port}\r
Origin: http://127.0.0.1:{port}\r
Upgrade: websocket\r
Connection: Upgrade\r
Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r
Sec-WebSocket-Version: 13\r
\r
"""

#: A text message, "echo", with a mask of zeros; and its echo.
SENT = b"\x81\x84\0\0\0\0echo"
ECHO = b"\x81\x04echo"

#: How uvicorn's ping begins, which is as long.
PING = b"\x89\x04"


def measure(port: int) -> list[float]:
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda *args: ended.append(1))
    delays = []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(HANDSHAKE.format(port=port).encode())
        reader = connection.makefile("rb")
        while reader.readline().strip():
            pass
        while not ended:
            start = time.perf_counter()
            connection.sendall(SENT)
            answer = reader.read(len(ECHO))
            if answer.startswith(PING):
                answer = reader.read(len(ECHO))
            if answer != ECHO:
                sys.exit(f"This is no echo: {answer!r}")
            delays.append(time.perf_counter() - start)
            time.sleep(PAUSE)
    return delays


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
