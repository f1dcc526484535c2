"""The parts of deploy/ray without a cluster: what crosses, who is chosen, what is told, and what is refused before Ray starts."""

import asyncio
import os
import re
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import orjson
import pytest
import yaml

from app.errors import StartupError
from app.settings import Settings
from deploy.ray.exchange import BLOCK, Exchange, blocks_of
from deploy.ray.exposition import merged
from tests.chaos.service import PATIENCE_SECONDS
from tests.deploy.ray_cluster import quiet
from tests.tiny import make_tiny_checkpoint, small_vocabulary, tiny_sizes

with quiet():
    pytest.importorskip("ray.serve", reason="ray is missing: pip install '.[ray]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of what Ray itself warns

ROOT = Path(__file__).parents[2]


# ---- prompts and replicas


def native(prompt: object) -> bytes:
    return orjson.dumps({"inputs": prompt})


def test_prompts_that_begin_alike_have_their_first_blocks_in_common() -> None:
    beginning = "x" * 3 * BLOCK
    one, other = blocks_of(native(beginning + "a" * BLOCK)), blocks_of(native(beginning + "b" * BLOCK))
    assert len(one) == len(other) == 4
    assert one[:3] == other[:3]
    assert one[3] != other[3]


def test_a_prompt_is_found_in_every_dialect() -> None:
    text = blocks_of(native("the same text"))
    assert text
    assert blocks_of(orjson.dumps({"prompt": "the same text"})) == text
    assert blocks_of(orjson.dumps({"prompt": ["the same text", "another"]})) == text
    assert blocks_of(native([1, 2, 3])) == blocks_of(orjson.dumps({"prompt": [[1, 2, 3], [4]]})) != ()
    assert blocks_of(orjson.dumps({"messages": [{"role": "user", "content": "hello"}]}))


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"1", b"{}", b'{"inputs": 5}', b'{"inputs": ""}', b"\xff", b'{"messages": [3]}']
)
def test_what_has_no_prompt_goes_anywhere(body: bytes) -> None:
    assert blocks_of(body) == ()


def router(loads: dict[str, int], **options: int) -> Any:  # PrefixRouter, without what only Ray can give it
    from deploy.ray.router import PrefixRouter

    one: Any = PrefixRouter.__new__(PrefixRouter)
    one._replica_queue_len_cache = SimpleNamespace(get=lambda replica_id: loads[replica_id.unique_id])
    one.initialize_state(**options)
    return one


def replica(name: str) -> Any:  # Ray's RunningReplica
    return SimpleNamespace(replica_id=SimpleNamespace(unique_id=name))


def chosen(one: Any, exchange: Exchange, names: str) -> list[list[str]]:
    pending = SimpleNamespace(args=[exchange], routing_context=SimpleNamespace(should_backoff=False))
    ranks = asyncio.run(one.choose_replicas([replica(name) for name in names], pending))
    one.on_request_routed(pending, ranks[0][0].replica_id, None)
    assert pending.routing_context.should_backoff
    return [[candidate.replica_id.unique_id for candidate in rank] for rank in ranks]


def test_what_goes_on_from_a_prompt_goes_where_that_went() -> None:
    one = router(dict.fromkeys("abcdef", 0))
    beginning = "x" * 2 * BLOCK
    [first] = chosen(one, Exchange({}, b"", blocks_of(native(beginning))), "abcdef")[0]
    for i in range(20):
        assert chosen(one, Exchange({}, b"", blocks_of(native(f"{beginning} {i}" + "y" * BLOCK))), "abcdef")[0] == [first]


def test_new_prompts_are_shared_out_and_all_doors_agree_where() -> None:
    loads = dict.fromkeys("ab", 0)
    exchanges = [Exchange({}, b"", blocks_of(native(f"{i} is new"))) for i in range(200)]
    first = [chosen(router(loads), exchange, "ab")[0] for exchange in exchanges]
    assert [chosen(router(loads), exchange, "ba")[0] for exchange in exchanges] == first
    assert 60 < first.count(["a"]) < 140


def test_a_replica_that_is_much_busier_is_passed_over() -> None:
    loads = {"a": 0, "b": 0}
    one = router(loads, max_ahead=2)
    exchange = Exchange({}, b"", blocks_of(native("hello")))
    [favourite] = chosen(one, exchange, "ab")[0]
    loads[favourite] = 2
    assert chosen(one, exchange, "ab")[0] == [favourite]
    loads[favourite] = 3
    assert sorted(chosen(one, exchange, "ab")[0]) == ["a", "b"], "of which Ray takes the idler"


def test_a_replica_that_has_refused_a_request_does_not_get_it_again_while_there_is_another() -> None:
    one = router({"a": 0, "b": 0})
    exchange = Exchange({}, b"", blocks_of(native("hello")), avoid="a")
    assert {name for rank in chosen(one, exchange, "ab") for name in rank} == {"b"}
    assert {name for rank in chosen(one, exchange, "a") for name in rank} == {"a"}


def test_what_is_remembered_is_bounded() -> None:
    from deploy.ray import router as module

    one = router({"a": 0})
    for i in range(module.MAX_KNOWN // 64 + 10):
        chosen(one, Exchange({}, b"", tuple(range(64 * i, 64 * i + 64))), "a")
    assert len(one._known) == module.MAX_KNOWN


def test_what_is_shown_of_an_exchange_has_neither_the_prompt_nor_the_key() -> None:
    exchange = Exchange({"headers": [(b"authorization", b"Bearer a-secret")]}, native("a-secret"), (1,), "r1")
    assert "a-secret" not in repr(exchange)
    assert "r1" in repr(exchange)


# ---- replicas


# What a replica logs to is for its process's life.
@pytest.mark.usefixtures("logging_kept")
def test_a_replica_sends_its_traces_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="the extra `otel` is not installed")
    from deploy.ray.replica import Replica
    from tests.api.collector import Collector

    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    model = make_tiny_checkpoint(tmp_path / "tiny", tiny_sizes(), small_vocabulary())

    async def ask(application: Any) -> None:
        async with application.router.lifespan_context(application):
            transport = httpx.ASGITransport(application)
            async with httpx.AsyncClient(transport=transport, base_url="http://replica", timeout=PATIENCE_SECONDS) as client:
                answer = await client.post("/generate", json={"inputs": "hello", "parameters": {"max_new_tokens": 2}})
                assert answer.status_code == 200, answer.text

    with closing(Collector()) as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        settings = Settings(model=str(model), device="cpu", threads=1, max_running=2)
        asyncio.run(ask(Replica.__new__(Replica)._build(settings)))
        assert "/generate" in collector.one().name


# ---- doors


class Stream:
    """A replica's answer: batches of messages, then what it raises."""

    def __init__(self, *batches: list[dict[str, Any]], error: Exception | None = None) -> None:
        self._batches, self._error, self.is_cancelled = batches, error, False

    async def __aiter__(self) -> AsyncGenerator[list[dict[str, Any]], None]:
        for batch in self._batches:
            yield batch
        if self._error is not None:
            raise self._error

    def cancel(self) -> None:
        self.is_cancelled = True


class Replicas:
    """Ray's handle: gives one of the streams a call."""

    def __init__(self, *streams: Stream) -> None:
        self.asked: list[Exchange] = []
        self._streams = iter(streams)

    def options(self, stream: bool) -> "Replicas":
        return self

    @property
    def answer(self) -> Any:
        def remote(exchange: Exchange) -> Stream:
            self.asked.append(exchange)
            return next(self._streams)

        return SimpleNamespace(remote=remote)


def head(status: int = 200, kind: str = "text/event-stream", replica: str = "a") -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": [(b"content-type", kind.encode())], "replica": replica}


def part(body: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


def died() -> Exception:
    from ray.exceptions import ActorDiedError

    return ActorDiedError()


def ask(replicas: Replicas, path: str = "/generate_stream") -> tuple[int, bytes]:
    from deploy.ray.door import Door

    scope = {"type": "http", "method": "POST", "path": path, "headers": [(b"x-request-id", b"mine")], "http_version": "1.1"}
    requests = iter([{"type": "http.request", "body": native("hello"), "more_body": False}])
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return next(requests)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Door(replicas, 1_000_000)._answer(scope, receive, send))  # type: ignore[arg-type]  # what it needs of a handle
    assert not sent[-1].get("more_body", False), "complete"
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


def test_a_request_whose_replica_dies_before_its_first_byte_is_answered_by_another() -> None:
    replicas = Replicas(
        Stream(error=died()), Stream([head()], error=died()), Stream([head(), part(b"data: 1\n\n"), part(b"", False)])
    )
    assert ask(replicas) == (200, b"data: 1\n\n")
    assert len(replicas.asked) == 3


def test_a_request_that_ends_three_replicas_is_given_up() -> None:
    replicas = Replicas(*(Stream(error=died()) for _ in range(4)))
    status, body = ask(replicas)
    assert (status, orjson.loads(body)["error_type"], len(replicas.asked)) == (503, "not_ready", 3)


@pytest.mark.parametrize(
    ("path", "end"),
    [
        ("/generate_stream", b'"error_type":"generation"}\n\n'),
        ("/v1/completions", b'"type":"server_error","param":null,"code":"generation"}}\n\ndata: [DONE]\n\n'),
    ],
)
def test_a_stream_whose_replica_dies_ends_with_an_error_event(path: str, end: bytes) -> None:
    replicas = Replicas(Stream([head(), part(b"data: 1\n\n")], [part(b"data: 2\n\n")], error=died()))
    status, body = ask(replicas, path)
    assert status == 200
    assert body.startswith(b'data: 1\n\ndata: 2\n\ndata: {"error":')
    assert body.endswith(end)
    assert len(replicas.asked) == 1, "what a client has read of is not computed again"


def test_a_replica_that_drains_is_not_asked_twice() -> None:
    draining = Stream([head(503, "application/json"), part(b"{}", False)])
    replicas = Replicas(draining, Stream([head(), part(b"data: 1\n\n", False)]))
    assert ask(replicas) == (200, b"data: 1\n\n")
    assert [exchange.avoid for exchange in replicas.asked] == ["", "a"]
    assert draining.is_cancelled


def test_an_answer_of_429_is_passed_on() -> None:
    replicas = Replicas(Stream([head(429, "application/json"), part(b"{}", False)]))
    assert ask(replicas) == (429, b"{}")


def test_a_client_that_leaves_is_told_from_a_replica_that_dies() -> None:
    from ray.exceptions import TaskCancelledError

    replicas = Replicas(Stream(error=TaskCancelledError()))
    with pytest.raises(asyncio.CancelledError):
        ask(replicas)
    assert len(replicas.asked) == 1


# ---- metrics and scaling


def test_expositions_are_merged_by_families() -> None:
    one = '# HELP a_total All.\n# TYPE a_total counter\na_total{how="x"} 1.0\n# HELP b B.\n# TYPE b gauge\nb 2.0\n'
    assert merged({"r1": one, "r2": one}) == (
        '# HELP a_total All.\n# TYPE a_total counter\na_total{replica="r1",how="x"} 1.0\na_total{replica="r2",how="x"} 1.0\n'
        '# HELP b B.\n# TYPE b gauge\nb{replica="r1"} 2.0\nb{replica="r2"} 2.0\n'
    )


def test_what_is_merged_can_be_read() -> None:
    from prometheus_client.parser import text_string_to_metric_families

    from app.metrics import Metrics

    text = Metrics().exposition().decode()
    alone = {family.name: len(family.samples) for family in text_string_to_metric_families(text)}
    both = {family.name: len(family.samples) for family in text_string_to_metric_families(merged({"a": text, "b": text}))}
    assert both == {name: 2 * num for name, num in alone.items()}


@pytest.mark.parametrize(("reported", "wanted"), [({"a": 500.0, "b": 1500.0}, 2.0), ({"a": 0.0}, 0.0), ({}, 3)])
def test_replicas_follow_the_queued_tokens(reported: dict[str, float], wanted: float) -> None:
    from deploy.ray.scaling import QUEUED_TOKENS, QueuedWork

    context: Any = SimpleNamespace(aggregated_metrics={QUEUED_TOKENS: reported}, target_num_replicas=3)
    assert QueuedWork(target_tokens=1000)(context)[0] == wanted


# ---- configuration


def test_the_config_file_is_valid_for_ray_and_for_the_service() -> None:
    from ray.serve.schema import ServeDeploySchema

    from deploy.ray import Arguments

    config = ServeDeploySchema.model_validate(yaml.safe_load((ROOT / "deploy/ray/serve.yaml").read_text()))
    [application] = config.applications
    arguments = Arguments(**application.args)
    assert application.import_path == "deploy.ray:build"
    assert set(arguments.settings) <= set(Settings.model_fields)
    assert config.http_options.request_timeout_s is None, "deadlines are the service's own"


def test_ray_finds_the_application_and_its_builder_by_their_names() -> None:
    from ray._common.utils import import_attr
    from ray.serve import Application
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary as built

    assert isinstance(import_attr("deploy.ray:app"), Application)
    assert isinstance(built(import_attr("deploy.ray:build"), {"replicas": "2"}), Application), "on a command line all is text"


def test_replicas_scale_only_where_there_is_room_to() -> None:
    from deploy.ray import Arguments, build

    def config(**arguments: Any) -> Any:
        bound: Any = build(Arguments(**arguments))
        return bound._bound_deployment.init_args[0]._bound_deployment._deployment_config

    assert config(replicas=2).autoscaling_config is None
    scaling = config(replicas=1, max_replicas=4).autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (1, 4)
    assert config(settings={"drain_seconds": 100}).graceful_shutdown_timeout_s > 100, "or Ray would cut the drain off"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"replicas": 0}, "replicas"),
        ({"replicas": 4, "max_replicas": 2}, "max_replicas: 2 is below replicas, 4"),
        ({"settings": {"device": "cuda"}}, "settings.device: cuda needs gpus above 0"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused_by_name(arguments: dict[str, Any], named: str) -> None:
    from deploy.ray import Arguments

    with pytest.raises(ValueError, match=named):
        Arguments(**arguments)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"api_keys": "k"}, "settings.api_keys: .* GPT2_API_KEYS_FILE"),
        ({"max_running": -3}, "settings.max_running: .*-3"),
        ({"modell": "x"}, "settings.modell: there is no such setting"),
    ],
)
def test_settings_of_a_replica_that_are_wrong_are_refused_by_name(given: dict[str, Any], named: str) -> None:
    from deploy.ray.replica import settings_of

    with pytest.raises(StartupError, match=named):
        settings_of(given)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """`python -m deploy.ray`, which is to end before it starts Ray."""
    import ray

    from deploy.ray import __main__ as module

    def run(*options: str, **environment: str) -> tuple[int, str]:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("sys.argv", ["deploy.ray", *options])
        code = module.main()
        return code, capsys.readouterr().err

    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was started"))
    return run


@pytest.mark.parametrize(
    ("options", "environment", "named"),
    [
        ([], {"GPT2_MODEL": "/nowhere/at/all"}, "GPT2_MODEL: .*/nowhere/at/all"),
        ([], {"GPT2_DEVICE": "cuda"}, "GPT2_DEVICE: cuda needs --gpus"),
        (
            ["--gpus", "2000"],
            {"GPT2_DEVICE": "cuda"},
            "--gpus: 1 of 2000 GPUs need 2000, and the driver shows this process [0-9]+;",
        ),
        ([], {"GPT2_MAX_WAITING": "-1"}, "GPT2_MAX_WAITING: .*-1"),
        (["--replicas", "5000"], {}, "--replicas: 5000 of 1 CPUs need 5000"),
        (["--replicas", "0"], {}, "--replicas: .*0"),
    ],
)
def test_bad_input_is_one_line_that_names_the_setting(
    command: Callable[..., tuple[int, str]], options: list[str], environment: dict[str, str], named: str
) -> None:
    code, said = command(*options, **{"GPT2_PORT": "0"} | environment)
    assert code == 78
    assert said.count("\n") == 1
    assert said.startswith("gpt2: ")
    assert re.search(named, said), said


def test_a_port_in_use_is_named(command: Callable[..., tuple[int, str]]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, said = command(GPT2_PORT=str(port))
    assert code == 78
    assert said.startswith(f"gpt2: GPT2_PORT: port {port} of 127.0.0.1 is in use already; "), "as of one process"
    assert said.count("\n") == 1
