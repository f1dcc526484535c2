"""nanoGPT's published CPU recipe for character-level tinyshakespeare, by our trainer; its validation loss is about 1.88.

    python -m benchmarks.tinyshakespeare TINYSHAKESPEARE.txt

The same network (4 layers, 4 heads, 128 wide, context 64), batch (12 windows), 2,000 steps, no dropout, the last tenth held
out. Our own are the vocabulary (bytes, which are this text's characters), the order of the windows, and the optimisers' rates.
Windows are 64 tokens from the first step on: the trainer's own habit of beginning with shorter ones is switched off. The loss
is that of the saved checkpoint, which is the last step's, on all windows of 64 in the last tenth.
"""

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from app.environment import prepare_for_training
from benchmarks.machine import write_result
from model.network_files import load_model
from model.training.data.batches import validation_batches
from model.training.data.options import DataOptions
from model.training.data.shards import map_shards
from model.training.distributed import Processes
from model.training.pretrain import PretrainOptions, pretrain

PUBLISHED = 1.88
SIZES = {"n_positions": 64, "n_embd": 128, "n_layer": 4, "n_head": 4}
STEPS = 2000
FIXED = {
    "max_steps": STEPS,
    "validate_every": STEPS,
    "batch_size": 12,
    "dropout": 0.0,
    "windows": ((0.0, 1),),
    "compiled": False,
    "cooldown": None,
}
# The trainer's own; nanoGPT's is 1e-3, with a cosine down to 1e-4 where ours ends at zero.
RATES = {"muon": {"learning_rate": 3e-3, "muon_learning_rate": 0.02}, "adamw": {"learning_rate": 3e-3}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    prepare_for_training()
    rows = []
    for optimizer, rates in RATES.items():
        runs = [run(options.text, {"optimizer": optimizer, "seed": seed, **rates}) for seed in range(options.seeds)]
        losses = [loss for loss, _ in runs]
        rows.append(
            {
                "optimizer": optimizer,
                **rates,
                "validation_loss": round(statistics.median(losses), 4),
                "by_seed": [round(loss, 4) for loss in losses],
                "seconds": round(statistics.median(seconds for _, seconds in runs), 1),
            }
        )
    print(f"\n{'':<16} {'validation loss, nats a character':>34} {'seconds':>8}")
    print(f"{'nanoGPT':<16} {PUBLISHED:>34}")
    for row in rows:
        print(f"{'ours, ' + str(row['optimizer']):<16} {row['validation_loss']:>34} {row['seconds']:>8}")
    write_result(
        "tinyshakespeare", "python -m benchmarks.tinyshakespeare TINYSHAKESPEARE.txt", {"published": PUBLISHED, "rows": rows}
    )


def run(text: Path, recipe: dict[str, object]) -> tuple[float, float]:
    """Train from nothing; the result is the loss in nats a character on the last tenth, and how long training took."""
    with tempfile.TemporaryDirectory() as temporary:
        out, started = Path(temporary) / "model", time.monotonic()
        contents = text.read_text(encoding="utf-8")
        files = [Path(temporary) / name for name in ("train.txt", "validation.txt")]
        border = int(0.9 * len(contents))
        for file, part in zip(files, (contents[:border], contents[border:]), strict=True):
            file.write_text(part, encoding="utf-8")
        data = DataOptions(paths=files[:1], validation=files[1:])
        options = PretrainOptions(data=data, vocab_size=257, sizes=SIZES, recipe=FIXED | recipe)
        if not pretrain(options, out, torch.device("cpu"), Processes(), print):
            raise KeyboardInterrupt
        seconds = time.monotonic() - started
        loss = validation_loss(out)
    print(f"{recipe}: validation loss {loss:.4f} in {seconds:.1f} s")
    return loss, seconds


@torch.inference_mode()
def validation_loss(out: Path) -> float:
    model, shards = load_model(out).eval(), map_shards(out / "training" / "tokens")
    nats, count = 0.0, 0
    for tokens, targets in validation_batches(shards.validation, SIZES["n_positions"], num_windows=1 << 30, rows=64):
        nats += F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), reduction="sum").item()
        count += targets.numel()
    assert math.isclose(count, sum(map(len, shards.validation)), rel_tol=1e-3)  # all of it but the last, incomplete window
    return nats / count


if __name__ == "__main__":
    main()
