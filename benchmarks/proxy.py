"""A TCP proxy that makes a server far away: ``python -m benchmarks.proxy PORT TARGET_PORT SECONDS``.

Each byte is passed on half of the delay after it came in, in both directions, so that a round
trip takes the whole of it longer. Data flows on meanwhile: the delay is that of a long cable, not
that of a narrow one.
"""

from __future__ import annotations

import queue
import socket
import sys
import threading
import time
from contextlib import suppress

CHUNK = 1 << 18


def serve(port: int, target: int, delay: float) -> None:
    """Accept connections for ever."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            client, _ = listener.accept()
            try:
                server = socket.create_connection(("127.0.0.1", target))
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _pass_on(client, server, delay / 2)
            _pass_on(server, client, delay / 2)


def _pass_on(source: socket.socket, sink: socket.socket, delay: float) -> None:
    """Start to pass on what comes from ``source``, in two threads: one reads, one writes in time."""
    on_the_way: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(source, on_the_way, delay), daemon=True).start()
    threading.Thread(target=_write, args=(sink, on_the_way), daemon=True).start()


def _read(source: socket.socket, on_the_way: queue.SimpleQueue[tuple[float, bytes]], delay: float) -> None:
    data = b"-"
    while data:
        try:
            data = source.recv(CHUNK)
        except OSError:
            data = b""
        on_the_way.put((time.monotonic() + delay, data))


def _write(sink: socket.socket, on_the_way: queue.SimpleQueue[tuple[float, bytes]]) -> None:
    with suppress(OSError):
        while True:
            due, data = on_the_way.get()
            time.sleep(max(0.0, due - time.monotonic()))
            if not data:
                break
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
