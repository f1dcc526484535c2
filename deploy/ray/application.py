"""Doors and replicas as deployments of Ray Serve, and their defaults; serve.yaml may say otherwise of each of them."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deploy.ray.door import Door
from deploy.ray.replica import Replica, settings_of
from deploy.ray.router import PrefixRouter
from deploy.ray.scaling import QueuedWork
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig

# Beyond those that may wait for a slot: so many that none waits at a door, where nobody refuses it. The service's queue is bounded.
OTHERS = 4096
HEALTH_PERIOD_SECONDS = 2.0  # in which a replica that has ended is found; three periods for one that is not ready
SHUTDOWN_SECONDS = 5.0  # beyond the drain
CONSTRUCTOR_TRIES = 3  # what is wrong with a setting does not mend itself


class Arguments(BaseModel):
    """What `serve run deploy.ray:build replicas=2` and the `args` of serve.yaml may say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    settings: dict[str, Any] = Field({}, description="The service's settings by their names; the others are GPT2_* or defaults.")
    replicas: int = Field(1, ge=1, description="Replicas; the fewest, with max_replicas above it.")
    max_replicas: int = Field(0, ge=0, description="The most replicas that queued work may start; 0 is as many as `replicas`.")
    target_tokens: float = Field(4096.0, gt=0, description="Work of a replica, in tokens, beyond which there are to be more.")
    cpus: float = Field(1.0, ge=0, description="CPUs of a replica, and its threads where GPT2_THREADS does not say otherwise.")
    gpus: float = Field(0.0, ge=0, description="GPUs of a replica.")
    max_ahead: int = Field(
        16,
        ge=-1,
        description="Requests more than the idlest replica's with which one still gets those whose prompts it knows; -1: none.",
    )
    doors: int = Field(1, ge=1, description="Doors; two are there for each other.")

    @model_validator(mode="after")
    def _fit_together(self) -> "Arguments":
        if 0 < self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas: {self.max_replicas} is below replicas, {self.replicas}")
        if self.settings.get("device") == "cuda" and not self.gpus:
            raise ValueError("settings.device: cuda needs gpus above 0, or Ray shows replicas none of the machine's")
        return self


def build(arguments: Arguments) -> serve.Application:
    """The application; Ray's import path `deploy.ray:build`, to which it gives one argument. Raises StartupError."""
    return bound(arguments, Replica)


def bound(arguments: Arguments, replica: type[Replica]) -> serve.Application:
    """Doors before replicas of that class."""
    settings = settings_of(arguments.settings)  # here they are for what Ray is to know; a replica reads its own environment
    max_ongoing = settings.max_waiting + OTHERS
    replicas = serve.deployment(
        name="Replica",
        ray_actor_options={"num_cpus": arguments.cpus, "num_gpus": arguments.gpus},
        max_ongoing_requests=max_ongoing,
        request_router_config=RequestRouterConfig(
            request_router_class=PrefixRouter, request_router_kwargs={"max_ahead": arguments.max_ahead}
        ),
        logging_config={"enable_access_log": False},  # the service has a line for each request
        graceful_shutdown_timeout_s=settings.drain_seconds + SHUTDOWN_SECONDS,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=HEALTH_PERIOD_SECONDS,
        max_constructor_retry_count=CONSTRUCTOR_TRIES,
        **_number(arguments),
    )(replica)
    doors = serve.deployment(
        name="Door",
        num_replicas=arguments.doors,
        max_surge_percent=100,  # an update starts the new ones first, which need no CPU of their own
        ray_actor_options={"num_cpus": 0},  # it waits, mostly
        max_ongoing_requests=max_ongoing * max(arguments.replicas, arguments.max_replicas),
        graceful_shutdown_timeout_s=settings.drain_seconds + 2 * SHUTDOWN_SECONDS,  # it stays with its replicas' answers
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=HEALTH_PERIOD_SECONDS,
        logging_config={"enable_access_log": False},
    )(serve.ingress()(Door))
    return doors.bind(replicas.bind(arguments.settings), settings.max_body_bytes)


def _number(arguments: Arguments) -> dict[str, Any]:
    if arguments.max_replicas <= arguments.replicas:
        return {"num_replicas": arguments.replicas}
    policy = AutoscalingPolicy(policy_function=QueuedWork, policy_kwargs={"target_tokens": arguments.target_tokens})
    scaling = AutoscalingConfig(
        min_replicas=arguments.replicas,
        max_replicas=arguments.max_replicas,
        policy=policy,
        look_back_period_s=15.0,
        upscale_delay_s=10.0,
        downscale_delay_s=300.0,  # a replica is cheap to keep for minutes, and what it has cached is gone with it
    )
    return {"autoscaling_config": scaling}
