"""The address to listen on: taken before anything is loaded, so that what stands in the way is told at once. Knows no HTTP."""

import errno
import ipaddress
import os
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from app.errors import StartupError
from model.input_files import shown

# Of localhost, which is an address of IPv6 too where the system has none; whoever asks for such an address alone is refused.
NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
UNPRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


def take_address(host: str, port: int) -> list[socket.socket]:
    """Sockets bound to all addresses of a host, on one port; they listen to nobody yet, so that clients are refused as before.

    Two processes may hold an address until one of them listens, or a restart would have to wait until the last connections are
    forgotten (SO_REUSEADDR); the other's `listen` fails then. Raises StartupError.
    """
    missing = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    with ExitStack() as unless_all:
        taken: list[socket.socket] = []
        for family, address in _addresses(host, port):
            try:
                taken.append(_bound(family, address if port or not taken else (address[0], taken[0].getsockname()[1])))
                unless_all.callback(taken[-1].close)
            except OSError as error:
                if error.errno not in NOT_HERE:
                    raise not_taken(error, host, port) from error
                missing = error
        if not taken:
            raise not_taken(missing, host, port) from missing
        unless_all.pop_all()
    return taken


def _bound(family: int, address: tuple[Any, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own, or is not asked for
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def not_taken(error: OSError, host: str, port: int) -> StartupError:
    """What stands in the way of listening, and the setting that mends it."""
    if error.errno == errno.EADDRINUSE:
        remedy = f"`ss -ltnp 'sport = :{port}'` shows by whom; end that process, or set GPT2_PORT to another port"
        return StartupError(f"GPT2_PORT: port {port} of {host} is in use already; {remedy}")
    if error.errno in (errno.EACCES, errno.EPERM):
        return StartupError(
            f"GPT2_PORT: port {port} of {host} may not be listened on by this user, as none below {_first_free_port()} may; "
            "set GPT2_PORT to a higher one, or grant CAP_NET_BIND_SERVICE"
        )
    if error.errno in NOT_HERE:
        return StartupError(
            f"GPT2_HOST: {host} is no address of this machine; set it to one that `ip address` shows, or to 0.0.0.0 for all"
        )
    return StartupError(f"GPT2_HOST, GPT2_PORT: port {port} of {host} cannot be listened on: {error.strerror or error}")


def _addresses(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    """What a host's name or address stands for, each once with its family; nothing stands for all."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:  # a name with an empty part, or one too long, is not even asked for
        reason = getattr(error, "strerror", None) or error
        raise StartupError(f"GPT2_HOST: {shown(host)} is no address, nor a name that has one here: {reason}") from None
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _first_free_port() -> int:
    """The lowest port that everybody may listen on."""
    try:
        return int(UNPRIVILEGED.read_text())
    except (OSError, ValueError):
        return 1024


def is_loopback(host: str) -> bool:
    """Whether this machine alone can reach an address; of a name other than localhost nobody knows before it is looked up."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
