"""OpenVINO GenAI's continuous batching as a worker: all prompts of a job are added, then it steps until each has its tokens."""

import argparse
import time

import numpy as np
import openvino
import openvino_genai as genai
from worker import Generate, serve


def load(options: argparse.Namespace) -> Generate:
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = 2  # GB: 32 sequences of 256 tokens in float32 are 0.6
    scheduler.max_num_batched_tokens = 1024  # the best of 256, 1024 and 4096 at 32 sequences: 628, 679, 634 tokens/s end to end
    scheduler.max_num_seqs = 256
    scheduler.enable_prefix_caching = False
    properties = {"INFERENCE_NUM_THREADS": options.threads, "INFERENCE_PRECISION_HINT": options.dtype}
    pipeline = genai.ContinuousBatchingPipeline(str(options.model), scheduler, "CPU", properties)

    def generate(prompts: list[list[int]], max_new_tokens: int) -> list[list[float]]:
        config = genai.GenerationConfig(max_new_tokens=max_new_tokens, ignore_eos=True, do_sample=False)
        handles = [
            pipeline.add_request(i, openvino.Tensor(np.array([prompt], dtype=np.int64)), config) for i, prompt in enumerate(prompts)
        ]
        times: list[list[float]] = [[] for _ in prompts]
        while pipeline.has_non_finished_requests():
            pipeline.step()
            now = time.perf_counter()
            for handle, seen in zip(handles, times, strict=True):
                while handle.can_read():
                    seen.extend([now] * sum(len(output.generated_ids) for output in handle.read().values()))
        return times

    return generate


if __name__ == "__main__":
    serve(load, ["bf16", "f32"])
