"""The service on Ray Serve: `serve run deploy.ray:app`, `serve deploy deploy/ray/serve.yaml`, or `python -m deploy.ray`.

Doors take requests from Ray's proxies, choose a replica by the prompt's beginning and stay with the answer to its end; replicas
hold the model and are the whole application of app/main.py, so that routes, errors and headers are the contract's. docs/ray.md
says how to run it.
"""

from typing import Any

from deploy.ray.environment import prepare_for_ray

prepare_for_ray()


def __getattr__(name: str) -> Any:  # whatever it is that has the name
    """`app`, `build` and `Arguments`, made when they are asked for: to import a part of this imports no Ray."""
    from deploy.ray.application import Arguments, build

    match name:
        case "app":
            return build(Arguments())
        case "build":
            return build
        case "Arguments":
            return Arguments
    raise AttributeError(f"deploy.ray has no {name}")
