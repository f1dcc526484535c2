"""What the rows of benchmarks.compare_cpu should reach, and whether they do. Measures nothing."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.compare_table import LOWER_IS_BETTER, over_best
from benchmarks.peers.places import OURS

HTTP, IN_PROCESS = "HTTP", "in process"
SHARE = "share_of_limit"
WORDS = {
    "end_to_end": "end-to-end tokens/s",
    "decode": "decode tokens/s",
    "prefill": "prefill tokens/s",
    "first_token": "time to first token",
    "memory": "memory",
    SHARE: "decode tokens/s over the limit",
}


@dataclass(frozen=True, slots=True)
class Target:
    """A ratio of ours in `precision` to the best peer, or to the best of `rivals`; for SHARE the share itself."""

    way: str
    clients: int
    precision: str
    measure: str
    wanted: float
    goal: float | None = None
    rivals: tuple[str, ...] = ()

    def __str__(self) -> str:
        clients = f"{self.clients} client" + "s" * (self.clients > 1)
        return f"{self.way}, {clients}, {self.precision}: {WORDS[self.measure]}"

    def is_met_by(self, reached: float) -> bool:
        if self.measure == SHARE:
            return self.wanted <= reached <= 1  # more than all of it: the limit was measured while something else ran
        return reached <= self.wanted if self.measure in LOWER_IS_BETTER else reached >= self.wanted


TARGETS = [
    Target(HTTP, 1, "int8", "end_to_end", 1.3, 1.6),
    Target(HTTP, 8, "int8", "end_to_end", 2.5, 3.5),
    Target(HTTP, 32, "int8", "end_to_end", 2.0, 3.0),
    Target(IN_PROCESS, 1, "int8", "decode", 1.4),
    Target(IN_PROCESS, 8, "int8", "decode", 1.8, 2.5),
    Target(IN_PROCESS, 32, "int8", "decode", 1.7, 2.2),
    Target(IN_PROCESS, 1, "int8", SHARE, 0.85),
    Target(IN_PROCESS, 8, "int8", SHARE, 0.75),
    Target(IN_PROCESS, 32, "int8", SHARE, 0.50, 0.65),
    Target(IN_PROCESS, 8, "float32", "decode", 1.0),
    Target(IN_PROCESS, 32, "float32", "decode", 1.0),
    Target(IN_PROCESS, 1, "bfloat16", "decode", 1.3),
    Target(IN_PROCESS, 8, "bfloat16", "decode", 1.6),
    Target(IN_PROCESS, 32, "bfloat16", "decode", 1.15),
    Target(HTTP, 1, "int8", "first_token", 1.0),
    *(Target(way, clients, "int8", "prefill", 1.0) for way in (HTTP, IN_PROCESS) for clients in (1, 8, 32)),
    Target(HTTP, 32, "int8", "memory", 1.0, rivals=("vllm",)),
    Target(IN_PROCESS, 32, "int8", "memory", 1.0, rivals=("openvino",)),
]


def targets(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each target with what was reached, against whom and whether that is enough; without those that these rows do not tell."""
    found = []
    for target in TARGETS:
        group = [row for row in rows if (row["way"], row["clients"]) == (target.way, target.clients)]
        for ours in group:
            if ours["name"] == OURS and ours["precision"] == target.precision and (over := _reached(target, ours, group)):
                outcome = {"reached": over["ratio"], "peer": over["peer"], "met": target.is_met_by(over["ratio"])}
                found.append({"target": str(target)} | asdict(target) | outcome)
    return found


def _reached(target: Target, ours: dict[str, Any], group: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    if target.measure == SHARE:
        return {"ratio": ours[SHARE], "peer": None} if SHARE in ours else None
    if not target.rivals:
        return ours["over_best"].get(target.measure)
    rivals = [row for row in group if row["name"] in target.rivals]
    return over_best(ours, rivals, target.measure) if rivals else None
