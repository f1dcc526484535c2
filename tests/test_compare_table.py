"""How benchmarks.compare_cpu reads what it measured: rows, ratios to the best peer and targets, here of made-up results."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from benchmarks.compare_report import everybody, measured_on, of_targets, side_by_side, summary
from benchmarks.compare_table import NUM_NEW, OPERATIONS, decode_speed, limit, step_bytes, table
from benchmarks.compare_targets import targets

PEAKS = {"read_gb_per_second": 100.0, "int8_gops": 10000.0, "bfloat16_gflops": 5000.0, "float32_gflops": 500.0}
Result = dict[str, Any]


@dataclass
class Contender:
    label: str
    precision: str = "int8"
    name: str = "peer"
    http: bool = False
    results: dict[int, list[Result]] = field(default_factory=dict)

    def measured(self, *results: Result) -> "Contender":
        self.results.setdefault(len(results[0]["token_times"]), []).extend(results)
        return self


def ours(precision: str = "int8", http: bool = False) -> Contender:
    return Contender(f"ours, {precision}", precision, "ours", http)


def result(gap: float = 0.01, first: float = 0.1, megabytes: float = 100, clients: int = 1) -> Result:
    """All sequences in step: the first token after `first` seconds, the others each `gap` later."""
    times = [[first + i * gap for i in range(NUM_NEW)]] * clients
    return {
        "seconds": times[0][-1],
        "tokens": clients * NUM_NEW,
        "token_times": times,
        "first_token_seconds": [first] * clients,
        "rss_bytes": megabytes * 1e6,
    }


def over_best(contenders: list[Contender], clients: int = 1) -> dict[str, Any]:
    """What the table says of the first contender."""
    rows = table(contenders, [clients])
    return next(row["over_best"] for row in rows if row["label"] == contenders[0].label)


def reached(contenders: list[Contender], clients: int = 1, on: str = "avx512") -> dict[str, tuple[float, str | None, bool]]:
    return {line["target"]: (line["reached"], line["peer"], line["met"]) for line in targets(table(contenders, [clients]), on)}


def test_a_ratio_is_to_the_peer_that_was_best_in_its_round() -> None:
    one = Contender("one").measured(result(gap=0.03), result(gap=0.01), result(gap=0.03))
    two = Contender("two").measured(result(gap=0.02), result(gap=0.04), result(gap=0.02))
    found = over_best([ours().measured(*[result(gap=0.01)] * 3), one, two])["decode"]
    assert found["ratio"] == pytest.approx(2, abs=0.011)
    assert found["range"] == pytest.approx([1, 2], abs=0.011)
    assert found["peer"] == "two"


def test_what_we_run_by_default_is_compared_with_peers_of_every_precision() -> None:
    peers = [Contender("slow", "int8").measured(result(gap=0.04)), Contender("fast", "float32").measured(result(gap=0.02))]
    assert over_best([ours().measured(result()), *peers])["decode"]["peer"] == "fast"


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_an_exacter_mode_is_compared_with_peers_of_its_own_precision(precision: str) -> None:
    peers = [
        Contender(f"peer in {p}", p).measured(result(gap)) for p, gap in (("int8", 0.01), ("bfloat16", 0.02), ("float32", 0.02))
    ]
    assert over_best([ours(precision).measured(result()), *peers])["decode"]["peer"] == f"peer in {precision}"


def test_peers_over_http_and_in_process_are_compared_apart() -> None:
    contenders = [ours().measured(result()), ours(http=True).measured(result()), Contender("server", http=True).measured(result())]
    over = {row["way"]: row["over_best"] for row in table(contenders, [1]) if row["name"] == "ours"}
    assert not over["in process"]
    assert over["HTTP"]["end_to_end"]["peer"] == "server"


def test_ratios_are_never_rounded_in_our_favour() -> None:
    found = over_best(
        [ours().measured(result(gap=0.01, first=0.1001, megabytes=100.1)), Contender("peer").measured(result(gap=0.01999))]
    )
    assert found["decode"]["ratio"] == 1.99  # less is worse: 1.999
    assert found["first_token"]["ratio"] == 1.01  # more is worse: 1.001
    assert found["memory"]["ratio"] == 1.01


def test_decoding_begins_when_the_last_sequence_has_its_first_token() -> None:
    token_times = [[1.0, 2.0, 3.0, 4.0], [3.0, 4.0, 5.0, 7.0]]
    assert decode_speed({"token_times": token_times, "first_token_seconds": [1.0, 3.0]}) == 4 / (7 - 3)


def test_the_limit_is_what_memory_allows_or_arithmetic_where_that_is_less() -> None:
    assert limit("int8", 1, PEAKS) == 100e9 / step_bytes("int8", 1)
    assert limit("float32", 32, PEAKS) == 500e9 / OPERATIONS
    assert limit("float32", 32, PEAKS) < 32 * 100e9 / step_bytes("float32", 32)


def test_the_share_of_the_limit_is_of_the_precision_that_was_run() -> None:
    (row,) = table([ours("float32").measured(result(gap=0.01) | {"peaks": PEAKS})], [1])
    assert row["share_of_limit"] == pytest.approx(100 / limit("float32", 1, PEAKS), abs=0.001)
    assert row["share_of_limit"] <= 100 / limit("float32", 1, PEAKS)


def test_each_round_has_its_own_limit() -> None:
    rounds = [result(gap=0.01) | {"peaks": PEAKS | {"read_gb_per_second": speed}} for speed in (50.0, 100.0, 400.0)]
    (row,) = table([ours("int8").measured(*rounds)], [1])
    assert row["share_of_limit"] == pytest.approx(100 / limit("int8", 1, PEAKS), abs=0.001)
    assert row["memory_gb_per_second"] == [50.0, 100.0, 400.0]


def test_a_target_is_met_or_missed_by_the_ratio_to_the_best_peer() -> None:
    contenders = [ours("bfloat16").measured(result(gap=0.01)), Contender("peer", "bfloat16").measured(result(gap=0.01311))]
    assert reached(contenders)["in process, 1 client, bfloat16: decode tokens/s"] == (1.31, "peer", True)
    contenders[1].results[1] = [result(gap=0.01299)]
    assert reached(contenders)["in process, 1 client, bfloat16: decode tokens/s"] == (1.29, "peer", False)


def test_more_time_to_the_first_token_than_the_best_peer_misses_the_target() -> None:
    contenders = [ours(http=True).measured(result(first=0.1001)), Contender("peer", http=True).measured(result(first=0.1))]
    assert reached(contenders)["HTTP, 1 client, int8: time to first token"] == (1.01, "peer", False)


def test_a_share_of_more_than_the_limit_meets_no_target() -> None:
    allowed = limit("int8", 1, PEAKS)
    for share, is_met in ((0.9, True), (0.8, False), (1.1, False)):
        (found,) = reached([ours().measured(result(gap=1 / (share * allowed)) | {"peaks": PEAKS})]).values()
        assert found == (pytest.approx(share, abs=0.0011), None, is_met)


@pytest.mark.parametrize(("on", "wanted"), [("avx2", 1.5), ("avx512", 1.6), ("amx", 1.6)])
def test_each_instruction_set_has_its_targets(on: str, wanted: float) -> None:
    rows = table([ours().measured(result(gap=0.01)), Contender("peer").measured(result(gap=0.0156))], [1])
    (line,) = [line for line in targets(rows, on) if line["measure"] == "decode"]
    assert (line["wanted"], line["met"]) == (wanted, on == "avx2")


def test_a_set_without_ratios_to_reach_has_the_targets_that_hold_everywhere() -> None:
    contenders = [ours().measured(result()), Contender("peer").measured(result())]
    assert reached(contenders, on="scalar") == {"in process, 1 client, int8: prefill tokens/s": (1, "peer", True)}


def test_a_server_has_limits_of_its_own_on_memory_under_the_load_and_on_its_start() -> None:
    loads = [{"load_rss_bytes": megabytes * 1e6, "ready_seconds": 2.01} for megabytes in (650, 701)]
    server = ours(http=True).measured(*(result(clients=32) | load for load in loads)).measured(result() | loads[0])
    assert reached([server], 32)["HTTP, 32 clients, int8: resident memory under the load, MB"] == (701, None, False)
    assert reached([server], 1)["HTTP, 1 client, int8: seconds until it is ready"] == (2.01, None, False)
    found = of_targets(targets(table([server], [32]), "avx2"))
    assert "| HTTP, 32 clients, int8: resident memory under the load, MB |  | <= 700 |  | 701 | MISSED |" in found


def test_who_was_not_held_is_marked_and_compared_all_the_same() -> None:
    peer = Contender("peer").measured(result(gap=0.02) | {"used_avx512": True})
    contenders = [ours().measured(result(gap=0.01) | {"used_avx512": True}), peer]
    assert over_best([ours().measured(result(gap=0.01) | {"used_avx512": False}), peer])["decode"]["peer"] == "peer (not held)"
    assert "| in process, int8 (not held) | 1 | 100 | peer (not held): 50 |" in summary(table(contenders, [1]))


def test_memory_has_its_target_against_the_peers_it_names() -> None:
    contenders = [
        ours().measured(result(megabytes=100, clients=32)),
        Contender("small", name="llama").measured(result(megabytes=50, clients=32)),
        Contender("OpenVINO", name="openvino").measured(result(megabytes=200, clients=32)),
    ]
    assert over_best(contenders, 32)["memory"]["ratio"] == 2
    assert reached(contenders, 32)["in process, 32 clients, int8: memory"] == (0.5, "OpenVINO", True)


def test_what_was_not_measured_has_no_target() -> None:
    alone = reached([ours().measured(result() | {"peaks": PEAKS})])
    assert list(alone) == ["in process, 1 client, int8: decode tokens/s over the limit"]
    assert not reached([Contender("peer").measured(result())])
    assert not reached([])


def test_the_report_shows_everybody_ours_beside_the_best_and_the_targets() -> None:
    rows = table([ours().measured(result() | {"peaks": PEAKS}), Contender("peer").measured(result(gap=0.005))], [1])
    assert "| ours, int8, in process | 1 | " in everybody(rows)
    assert "| peer, in process | 1 | " in everybody(rows)
    (line,) = [line for line in summary(rows).splitlines() if line.startswith("| in process, int8")]
    assert "| 1 | 100 | peer: 200 | 0.50x (0.50-0.50) | 12 % |" in line
    assert "| in process, 1 client, int8: decode tokens/s | peer | >= 1.60 |  | 0.50 | MISSED |" in of_targets(
        targets(rows, "avx512")
    )


def test_machines_stand_side_by_side_each_with_its_own_columns() -> None:
    on_one, on_two = (table([ours().measured(result(gap)), Contender("peer").measured(result(0.02))], [1]) for gap in (0.01, 0.005))
    only_on_two = table([ours("float32").measured(result()), Contender("peer", "float32").measured(result())], [1])
    found = side_by_side({"one": {"result": {"rows": on_one}}, "two": {"result": {"rows": on_two + only_on_two}}})
    header, _, int8, float32 = found.splitlines()
    assert header.startswith("|  | clients | one: tokens/s | over the best peer | of the limit | two: tokens/s |")
    assert int8 == "| in process, int8 | 1 | 100 | 2.00x peer |  | 200 | 4.00x peer |  |"
    assert float32 == "| in process, float32 | 1 |  |  |  | 100 | 1.00x peer |  |"


def test_a_result_says_what_it_was_held_to_and_who_was_left_out() -> None:
    left_out = [{"label": "vLLM", "way": "HTTP", "reason": "does not run"}]
    about = {"cpu": {"instruction_sets": ["avx2", "fma"]}, "held_to": "avx2", "left_out": left_out, "peers": {"a": {"a": "1.0"}}}
    machine = {"date": "2026-11-27", "commit": "abc", "cpu": "EPYC", "python": "3.11", "torch": "2.13"}
    assert measured_on({"machine": machine, "result": about}) == (
        "Measured on 2026-11-27 at commit abc: EPYC (avx2 fma), everybody held to avx2, Python 3.11, torch 2.13; a 1.0.\n"
        "Left out: vLLM, HTTP: does not run."
    )
