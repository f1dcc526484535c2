"""transformers' generate() as a worker: one batch at a time, padded never, since all prompts of a job are of one length."""

import argparse
import time

import torch
from transformers import GPT2LMHeadModel, StoppingCriteria, StoppingCriteriaList
from worker import Generate, serve


class Clock(StoppingCriteria):
    """Notes the time after each step; generate() streams only a single sequence, but asks every batch whether to stop."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        self.times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool)


def load(options: argparse.Namespace) -> Generate:
    torch.set_num_threads(options.threads)
    model = GPT2LMHeadModel.from_pretrained(options.model, dtype=getattr(torch, options.dtype)).eval()

    def generate(prompts: list[list[int]], max_new_tokens: int) -> list[list[float]]:
        ids, clock = torch.tensor(prompts), Clock()
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            min_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=50256,
            stopping_criteria=StoppingCriteriaList([clock]),
        )
        return [clock.times] * len(prompts)

    return generate


if __name__ == "__main__":
    serve(load, ["bfloat16", "float32"])
