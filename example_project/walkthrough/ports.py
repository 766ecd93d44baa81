"""Find a free TCP port."""

import socket

HOST = "127.0.0.1"


def free_port(preferred: int) -> int:
    """The preferred port if it is free; otherwise, or for 0, one that the system picks."""
    if preferred and not answers(preferred) and _can_bind(preferred):
        return preferred
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def answers(port: int) -> bool:
    """Whether a server accepts connections on this port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


def _can_bind(port: int) -> bool:
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        return False
    return True
