"""This project's engine as a worker, without HTTP: scheduler, native runner and nothing else, with the service's own settings.

Started with our own interpreter from the repository's root, where app/ and model/ are found.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from worker import Generate, serve

from app.environment import prepare_for_torch

DTYPES = ["auto", "int8", "bfloat16", "float32"]


def load(options: argparse.Namespace) -> Generate:
    prepare_for_torch()
    from app.bootstrap import load as load_model
    from app.bootstrap import make_engine
    from app.engine.sequence import EngineRequest
    from app.settings import Settings
    from model.batch import SamplingParams

    settings = Settings(model=str(options.model), dtype=options.dtype, device="cpu", threads=options.threads, _env_file=None)
    engine = make_engine(settings, load_model(settings, lambda line: print(line, file=sys.stderr)).chosen.runner)
    engine.runner.warm_up()

    def generate(prompts: list[list[int]], max_new_tokens: int) -> list[list[float]]:
        for i, prompt in enumerate(prompts):
            engine.submit(i, EngineRequest(tuple(prompt), SamplingParams(), max_new_tokens))
        times: list[list[float]] = [[] for _ in prompts]
        while engine.has_work:
            outputs = engine.step().outputs
            now = time.perf_counter()
            for output in outputs:
                times[output.request_id].append(now)
        return times

    return generate


if __name__ == "__main__":
    serve(load, DTYPES)
