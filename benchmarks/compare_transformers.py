"""Ours over HTTP with streaming against transformers' generate() in process: GPT-2 124M, random weights, float32.

    python -m benchmarks.compare_transformers

At 1, 8 and 32 sequences at once, 128 prompt and 128 new tokens each, greedy, the end token ignored; rounds alternate, medians.
Each side answers one request untimed first; the peer runs with torch's own defaults, ours with what `gpt2 serve` sets for itself.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import GPT2LMHeadModel

from benchmarks.load import LoadResult, run_load
from benchmarks.machine import gpt2_tokenizer, prompts_of, random_gpt2, write_result
from benchmarks.server import ServerProcess

NUM_PROMPT, NUM_NEW = 128, 128
WARM_UP = " warm" * NUM_PROMPT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--model", type=Path, default=Path(tempfile.gettempdir()) / "gpt2-124m-random")
    options = parser.parse_args()
    model = random_gpt2(options.model)
    peer = GPT2LMHeadModel.from_pretrained(model, dtype=torch.float32).eval()
    _transformers(peer, [WARM_UP])
    rows = []
    for num_clients in options.clients:
        ours, theirs = [], []
        for seed in range(options.rounds):
            prompts = prompts_of(gpt2_tokenizer(), NUM_PROMPT, num_clients, seed)
            ours.append(_ours(model, prompts))
            theirs.append(_transformers(peer, prompts))
            print(f"{num_clients} clients, round {seed + 1}: {ours[-1].tokens_per_second:.1f} against {theirs[-1]:.1f} tokens/s")
        ratios = [a.tokens_per_second / b for a, b in zip(ours, theirs, strict=True)]
        rows.append(
            {
                "clients": num_clients,
                "ours_tokens_per_second": round(statistics.median(r.tokens_per_second for r in ours), 1),
                "ours_first_token_ms": round(1000 * statistics.median(t for r in ours for t in r.first_token_seconds)),
                "transformers_tokens_per_second": round(statistics.median(theirs), 1),
                "ratio": round(statistics.median(ratios) - 0.005, 2),
                "ratio_range": [round(min(ratios) - 0.005, 2), round(max(ratios), 2)],
            }
        )
    print(f"\n{'clients':>7} {'ours tokens/s':>14} {'first token ms':>15} {'transformers':>13} {'ratio':>6}")
    for row in rows:
        print(
            f"{row['clients']:>7} {row['ours_tokens_per_second']:>14} {row['ours_first_token_ms']:>15} "
            f"{row['transformers_tokens_per_second']:>13} {row['ratio']:>6}"
        )
    write_result("compare_transformers", "python -m benchmarks.compare_transformers", {"rows": rows})


def _ours(model: Path, prompts: list[str]) -> LoadResult:
    # A fresh server each time: it must neither warm up on the peer's account nor find the prompts in its prefix cache.
    bodies = [{"inputs": prompt, "parameters": {"max_new_tokens": NUM_NEW, "ignore_eos": True}} for prompt in prompts]
    with ServerProcess(model, dtype="float32") as server:
        run_load(server.url, [{"inputs": WARM_UP, "parameters": {"max_new_tokens": 4}}], concurrency=1)
        result = run_load(server.url, bodies, len(prompts))
    assert result.tokens == NUM_NEW * len(prompts)
    return result


def _transformers(peer: GPT2LMHeadModel, prompts: list[str]) -> float:
    """End-to-end tokens/s of one generate() call on the whole batch."""
    ids = torch.tensor([gpt2_tokenizer().encode(prompt) for prompt in prompts])
    started = time.perf_counter()
    out = peer.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NUM_NEW,
        min_new_tokens=NUM_NEW,
        do_sample=False,
        pad_token_id=50256,
    )
    seconds = time.perf_counter() - started
    assert out.shape == (len(prompts), NUM_PROMPT + NUM_NEW)
    return NUM_NEW * len(prompts) / seconds


if __name__ == "__main__":
    main()
