"""What Ray's processes read from the environment when they start, as a cluster's nodes should have it. What is set stays."""

import os

FOR_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",  # the service connects to nobody by itself
    # One event loop in each of its processes: a token that is handed from thread to thread waits for the interpreter at each.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
}


def prepare_for_ray() -> None:
    """To be called before ray.serve is imported."""
    for name, value in FOR_RAY.items():
        os.environ.setdefault(name, value)
