"""Which connections may be given up so that others are served: those that are open and ask for nothing. Knows nothing of how."""

from asyncio import BaseProtocol


class Places:
    """Of one server; the one that has been there for longest is the first."""

    __slots__ = ("idle", "unasked")

    def __init__(self) -> None:
        self.idle: dict[BaseProtocol, None] = {}  # between two requests, and all is sent
        self.unasked: dict[BaseProtocol, None] = {}  # kept for probes, and no head has come

    def forget(self, connection: BaseProtocol) -> None:
        self.idle.pop(connection, None)
        self.unasked.pop(connection, None)
