"""Chooses a replica for a request: the one that has computed the beginning of its prompt, unless that one is much busier.

Ray runs one in each door. What a door has not sent itself it does not know, so new beginnings are assigned by a hash on which all
doors agree. Pickled by value and unpickled in Ray's processes: nothing here reaches the service.
"""

import random
import zlib
from collections import OrderedDict
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

MAX_KNOWN = 65_536  # beginnings; about 10 MB


class PrefixRouter(RequestRouter):
    """`max_ahead`: how many requests more than the idlest one's a replica may have and still get those whose prompts it knows.

    All others go to the less busy of two, as with Ray's own router; at -1 all do.
    """

    def initialize_state(self, max_ahead: int = 16) -> None:
        self._max_ahead = max_ahead
        self._known: OrderedDict[int, str] = OrderedDict()  # beginnings, and the replica that had each last

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Ranks of replicas, the best first; of a rank Ray takes the one with the fewest requests."""
        if pending_request is None or not candidate_replicas:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True  # or Ray would ask again without a pause while all are full
        exchange = pending_request.args[0] if pending_request.args else None
        avoid, blocks = getattr(exchange, "avoid", ""), getattr(exchange, "blocks", ())
        others = [replica for replica in candidate_replicas if _name(replica.replica_id) != avoid] or candidate_replicas
        favourite = self._favourite(others, blocks) if blocks else None
        two = random.sample(others, min(2, len(others)))
        if favourite is None or self._load(favourite) - min(map(self._load, others)) > self._max_ahead:
            return [two]
        return [[favourite], two]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:  # Ray's result
        """Its replica will have computed the prompt by the time that another request comes for it."""
        for block in getattr(pending_request.args[0], "blocks", ()) if pending_request.args else ():
            self._known[block] = _name(replica_id)
            self._known.move_to_end(block)
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    def _favourite(self, replicas: list[RunningReplica], blocks: tuple[int, ...]) -> RunningReplica:
        """The one that had the longest beginning; of a prompt nobody has begun, the one whose turn it is by a hash."""
        by_name = {_name(replica.replica_id): replica for replica in replicas}
        for block in reversed(blocks):
            if (name := self._known.get(block)) in by_name:
                return by_name[name]
        # Rendezvous hashing: a replica that comes or goes moves its own share of the prompts and no other.
        return by_name[max(by_name, key=lambda name: zlib.crc32(f"{blocks[0]} {name}".encode()))]

    def _load(self, replica: RunningReplica) -> int:
        return self.replica_queue_len_cache.get(replica.replica_id) or 0


def _name(replica_id: ReplicaID) -> str:
    return str(replica_id.unique_id)
