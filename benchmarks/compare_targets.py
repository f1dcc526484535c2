"""What the rows of benchmarks.compare_cpu should reach, and whether they do. Measures nothing."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.compare_table import LOWER_IS_BETTER, over_best
from benchmarks.peers.places import OURS

HTTP, IN_PROCESS = "HTTP", "in process"
# Of ours alone, as a row has them; the others are ratios.
SHARE, RESIDENT, READY = "share_of_limit", "load_rss_megabytes", "ready_seconds"
AT_MOST = {*LOWER_IS_BETTER, RESIDENT, READY}
WORDS = {
    "end_to_end": "end-to-end tokens/s",
    "decode": "decode tokens/s",
    "prefill": "prefill tokens/s",
    "first_token": "time to first token",
    "memory": "memory",
    SHARE: "decode tokens/s over the limit",
    RESIDENT: "resident memory under the load, MB",
    READY: "seconds until it is ready",
}


@dataclass(frozen=True, slots=True)
class Target:
    """A ratio of ours in `precision` to the best peer, or to the best of `rivals`; for SHARE, RESIDENT and READY ours itself."""

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
        return reached <= self.wanted if self.measure in AT_MOST else reached >= self.wanted


EVERYWHERE = [
    Target(HTTP, 1, "int8", "first_token", 1.0),
    *(Target(way, clients, "int8", "prefill", 1.0) for way in (HTTP, IN_PROCESS) for clients in (1, 8, 32)),
    Target(HTTP, 32, "int8", "memory", 1.0, rivals=("vllm",)),
    Target(IN_PROCESS, 32, "int8", "memory", 1.0, rivals=("openvino",)),
    Target(HTTP, 32, "int8", RESIDENT, 700),
    Target(HTTP, 1, "int8", READY, 2),
]
WITH_AVX2 = [
    Target(HTTP, 1, "int8", "end_to_end", 1.7),
    Target(HTTP, 8, "int8", "end_to_end", 3.0),
    Target(HTTP, 32, "int8", "end_to_end", 2.5),
    Target(IN_PROCESS, 1, "int8", "decode", 1.5),
    Target(IN_PROCESS, 8, "int8", "decode", 2.0),
    Target(IN_PROCESS, 32, "int8", "decode", 1.6),
    Target(IN_PROCESS, 1, "int8", SHARE, 0.80),
]
# The ratios of int8 are what was reached on 2026-11-26: no change may lose them.
WITH_AVX512 = [
    Target(HTTP, 1, "int8", "end_to_end", 1.62, 1.9),
    Target(HTTP, 8, "int8", "end_to_end", 3.41),
    Target(HTTP, 32, "int8", "end_to_end", 2.72),
    Target(IN_PROCESS, 1, "int8", "decode", 1.60),
    Target(IN_PROCESS, 8, "int8", "decode", 2.27, 2.5),
    Target(IN_PROCESS, 32, "int8", "decode", 2.13),
    Target(IN_PROCESS, 1, "int8", SHARE, 0.85),
    Target(IN_PROCESS, 8, "int8", SHARE, 0.75),
    Target(IN_PROCESS, 32, "int8", SHARE, 0.55),
    Target(IN_PROCESS, 8, "float32", "decode", 1.0),
    Target(IN_PROCESS, 32, "float32", "decode", 1.0),
    Target(IN_PROCESS, 1, "bfloat16", "decode", 1.3),
    Target(IN_PROCESS, 8, "bfloat16", "decode", 1.6),
    Target(IN_PROCESS, 32, "bfloat16", "decode", 1.15),
]
# By the largest instruction set, which is the one that the comparison was held to if it was. Others have no ratios to reach yet.
BY_SET = {"avx2": WITH_AVX2, "avx512": WITH_AVX512, "amx": WITH_AVX512}


def targets(rows: Sequence[dict[str, Any]], instruction_set: str) -> list[dict[str, Any]]:
    """Each target with what was reached, against whom and whether that is enough; without those that these rows do not tell."""
    found = []
    for target in BY_SET.get(instruction_set, []) + EVERYWHERE:
        group = [row for row in rows if (row["way"], row["clients"]) == (target.way, target.clients)]
        for ours in group:
            if ours["name"] == OURS and ours["precision"] == target.precision and (over := _reached(target, ours, group)):
                outcome = {"reached": over["ratio"], "peer": over["peer"], "met": target.is_met_by(over["ratio"])}
                found.append({"target": str(target)} | asdict(target) | outcome)
    return found


def _reached(target: Target, ours: dict[str, Any], group: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    if target.measure in (SHARE, RESIDENT, READY):
        return {"ratio": ours[target.measure], "peer": None} if target.measure in ours else None
    if not target.rivals:
        return ours["over_best"].get(target.measure)
    rivals = [row for row in group if row["name"] in target.rivals]
    return over_best(ours, rivals, target.measure) if rivals else None
