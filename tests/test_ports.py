"""What tests rely on when they ask for a port."""

import socket
from pathlib import Path

import pytest

from tests.ports import free_ports, unanswered_address

KERNELS_CHOICE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def test_free_ports_are_different_and_can_be_listened_on() -> None:
    ports = free_ports(3)
    assert len(set(ports)) == 3
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.skipif(not KERNELS_CHOICE.exists(), reason="Linux tells what it chooses from")
def test_the_kernel_gives_none_of_them_to_another_meanwhile() -> None:
    lowest = int(KERNELS_CHOICE.read_text().split()[0])
    assert max(free_ports(100)) < lowest


def test_an_unanswered_address_refuses_and_is_nobody_elses() -> None:
    with unanswered_address() as address:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        with pytest.raises(OSError, match="in use"):
            socket.create_server(address)
