"""How many replicas the queued work asks for. Ray's controller runs it, pickled by value: nothing here reaches the service."""

from typing import Any

from ray.serve.config import AutoscalingContext

QUEUED_TOKENS = "queued_tokens"  # what a replica reports under that name: see Replica.record_autoscaling_stats


class QueuedWork:
    """So many replicas that each has `target_tokens` of work: the prompts inside, and all that they may generate.

    Requests alone would tell little: one of 2 tokens counts there like one of 1,000. Bounds, delays and factors of
    `autoscaling_config` are Ray's to apply.
    """

    def __init__(self, target_tokens: float) -> None:
        if target_tokens <= 0:
            raise ValueError(f"target_tokens: {target_tokens:g} is no amount of work; it must be above 0")
        self._target_tokens = target_tokens

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        reported = (context.aggregated_metrics or {}).get(QUEUED_TOKENS)
        if not reported:
            return context.target_num_replicas, {}  # replicas that have just started have told nothing yet
        return sum(reported.values()) / self._target_tokens, {}
