"""CTranslate2's Generator as a worker."""

import argparse
import json
import time

import ctranslate2
from worker import Generate, serve


def load(options: argparse.Namespace) -> Generate:
    generator = ctranslate2.Generator(
        str(options.model), compute_type=options.dtype, inter_threads=1, intra_threads=options.threads
    )
    tokens: list[str] = json.loads((options.model / "vocabulary.json").read_text())  # it takes tokens by name

    def generate(prompts: list[list[int]], max_new_tokens: int) -> list[list[float]]:
        times: list[list[float]] = [[] for _ in prompts]

        def note(step: ctranslate2.GenerationStepResult) -> bool:
            times[step.batch_id].append(time.perf_counter())
            return False

        generator.generate_batch(
            [[tokens[i] for i in prompt] for prompt in prompts],
            max_batch_size=0,
            min_length=max_new_tokens,
            max_length=max_new_tokens,
            sampling_topk=1,
            include_prompt_in_result=False,
            callback=note,
        )
        return times

    return generate


if __name__ == "__main__":
    serve(load, ["int8", "float32"])
