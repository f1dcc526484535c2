"""What all tests share: devices, a small real vocabulary, a tiny real checkpoint, and a real server on it."""

import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import httpx
import pytest
import structlog

# GPT2_TEST_CPU=avx2 (or scalar) shows what the suite says on a CPU without AVX-512 (or AVX): torch and oneDNN read these when they
# are first imported, below, and the service's own tests take the native step's kernels from GPT2_KERNELS.
LESSER_CPUS = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "GPT2_KERNELS": "avx2"},
    "scalar": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "GPT2_KERNELS": "scalar"},
}
if "GPT2_TEST_CPU" in os.environ:
    os.environ.update(LESSER_CPUS[os.environ["GPT2_TEST_CPU"]])

from model.machine import num_cuda_devices

# Without a card kernels run in Triton's interpreter, which Triton has to hear of before anybody imports it, PyTorch too.
if not num_cuda_devices():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import torch

from app.bootstrap import Service, build_service
from app.main import create_app
from app.server import Server
from app.settings import Settings
from model.batch import Runner
from model.bpe import BPETokenizer
from model.checkpoint import load_tokenizer
from model.choice import Chosen, choose_runner
from model.config import GPT2Config
from model.gpt2 import GPT2
from model.native.library import NativeUnavailable, available_kernels
from model.network_files import load_model, save_checkpoint
from model.packed_linear import packs_bfloat16
from model.tokenizer import Tokenizer
from tests.held_stream import held_stream_logger
from tests.tiny import DATA, make_base, make_tiny_checkpoint, small_vocabulary, tiny_sizes

if TYPE_CHECKING:
    from app.tracing import Tracing

collect_ignore = ["clients"]  # they run in an environment of their own: make test-clients
structlog.configure(logger_factory=held_stream_logger)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU; none is here")
    return torch.device(request.param)


@pytest.fixture
def needs_native() -> None:
    """Skip a test where the native step was not built, or not for this CPU; nothing else is a reason to."""
    try:
        available_kernels()
    except NativeUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def needs_packed_bfloat16(request: pytest.FixtureRequest) -> None:
    """Skip a test of PyTorch's runner in bfloat16 on a CPU on which oneDNN does not pack it; a GPU needs no packing."""
    is_on_cpu = "device" not in request.fixturenames or request.getfixturevalue("device").type == "cpu"
    if is_on_cpu and not packs_bfloat16():
        pytest.skip("oneDNN packs bfloat16 on CPUs with AVX512BW or AVX-NE-CONVERT alone")


@pytest.fixture(scope="session")
def gpt2_tokenizer() -> BPETokenizer:
    """The vocabulary of OpenAI's release, 50,257 tokens."""
    return BPETokenizer.from_files(DATA / "vocab.json", DATA / "merges.txt")


@pytest.fixture(scope="session")
def small_tokenizer() -> BPETokenizer:
    return small_vocabulary()


@pytest.fixture(scope="session")
def tiny_config() -> GPT2Config:
    return tiny_sizes()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_config: GPT2Config, small_tokenizer: Tokenizer) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny-gpt2", tiny_config, small_tokenizer)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, small_tokenizer: Tokenizer) -> Path:
    """What the tests of a module fine-tune."""
    return make_base(tmp_path_factory.mktemp("base") / "tiny", small_tokenizer)


@pytest.fixture(scope="session")
def chatml_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_config: GPT2Config, tiny_checkpoint: Path) -> Path:
    """A small model as those who fine-tune for chat make them: four tokens more, and a template that writes two of them."""
    directory = tmp_path_factory.mktemp("checkpoint") / "tiny-chatml"
    model = GPT2(replace(tiny_config, vocab_size=504)).init_weights(torch.Generator().manual_seed(1))
    vocab = json.loads((tiny_checkpoint / "vocab.json").read_text())
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|user|>", "<|bot|>"]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    contents = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": name, **flags} for i, name in enumerate(names, start=499)],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {token: i for token, i in vocab.items() if i < 499},
            "merges": (tiny_checkpoint / "merges.txt").read_text().splitlines()[1:],
        },
    }
    save_checkpoint(directory, model, load_tokenizer(tiny_checkpoint), torch.float32)
    for name in ("vocab.json", "merges.txt"):
        (directory / name).unlink()
    (directory / "tokenizer.json").write_text(json.dumps(contents))
    (directory / "chat_template.jinja").write_text(CHATML)
    return directory


@pytest.fixture(scope="session")
def words_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """The tiny weights with a WordPiece vocabulary, most of it Chinese characters, as the Chinese GPT-2s have it."""
    directory = tmp_path_factory.mktemp("checkpoint") / "tiny-words"
    directory.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_checkpoint / name, directory)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", "the", "old", "##s", "你", "好"]
    characters = [char for i in range(500) if (char := chr(0x5000 + i)) not in words]
    (directory / "vocab.txt").write_text("\n".join([*words, *characters][:500]) + "\n")
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return directory


@dataclass
class RunningServer:
    """A real uvicorn on loopback in a thread of its own, with the parts of its service at hand."""

    url: str
    service: Service
    server: Server
    runner: Runner

    @property
    def cuts_freely(self) -> bool:
        return self.runner.capabilities.exact_at_any_cut

    def num_reusable(self, num_prompt: int) -> int:
        """How much of a prompt that was asked before comes from the prefix cache."""
        multiple = 1 if self.cuts_freely else self.service.info.prefill_chunk
        return (num_prompt - 1) // multiple * multiple

    def metric(self, name: str, **labels: str) -> float:
        """A sample's value by its full name, as in `gpt2_batch_size_bucket`; 0 if there is none yet."""
        return self.service.metrics.registry.get_sample_value(name, labels) or 0.0


StartServer = Callable[..., RunningServer]


@contextmanager
def running_server(
    settings: Settings, runner: Callable[[Runner], Runner] = lambda runner: runner, tracing: "Tracing | None" = None
) -> Iterator[RunningServer]:
    """Serve until the block ends; `runner` may wrap the real runner, to slow it down or make it fail."""
    wrapped: list[Runner] = []

    def choose(*arguments: Any) -> Chosen:
        chosen = choose_runner(*arguments)
        wrapped.append(runner(chosen.runner))
        return replace(chosen, runner=wrapped[-1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.bootstrap.choose_runner", choose)
        service = build_service(settings, report=lambda line: None)
    app = create_app(settings, service.generator, service.info, service.metrics, service.chat, service.lane, service.keys, tracing)
    ready, addresses = threading.Event(), []
    server = Server(app, settings, lambda address: (addresses.append(address), ready.set()))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        assert ready.wait(60), "the server did not come up"
        yield RunningServer(addresses[0], service, server, wrapped[0])
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive(), "the server did not go down"


@pytest.fixture
def start_server(tiny_checkpoint: Path) -> Iterator[StartServer]:
    """Start a server on the tiny checkpoint with the settings given; it stops with the test."""
    with ExitStack() as servers:

        def start(
            runner: Callable[[Runner], Runner] = lambda runner: runner, tracing: "Tracing | None" = None, **settings: object
        ) -> RunningServer:
            values = {"model": str(tiny_checkpoint), "port": 0, "device": "cpu", "_env_file": None} | settings
            return servers.enter_context(running_server(Settings(**values), runner, tracing))

        yield start


@pytest.fixture(scope="module")
def server(tiny_checkpoint: Path) -> Iterator[RunningServer]:
    """One server on the tiny checkpoint with default settings for all tests of a module."""
    with running_server(Settings(model=str(tiny_checkpoint), port=0, device="cpu", max_running=8, _env_file=None)) as running:
        yield running


@pytest.fixture(scope="module", params=["native", "torch", "cuda"])
def server_of_each_kind(request: pytest.FixtureRequest, tiny_checkpoint: Path) -> Iterator[RunningServer]:
    """The same by each runner, in float32 and with few slots; CUDA's has its kernels' twins where there is no card."""
    if request.param == "cuda":
        with running_server_on_kernels(tiny_checkpoint) as running:
            yield running
        return
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "torch":
            patch.setattr("model.choice.NativeRunner", refuse_native)
            patch.delenv("GPT2_KERNELS", raising=False)  # of a lesser CPU, before the settings are read
        settings = Settings(model=str(tiny_checkpoint), port=0, device="cpu", dtype="float32", max_running=4, _env_file=None)
        with running_server(settings) as running:
            if running.service.info.backend != request.param:
                pytest.skip("the native step is not built")
            yield running


@contextmanager
def running_server_on_kernels(checkpoint: Path) -> Iterator[RunningServer]:
    pytest.importorskip("triton", reason="Triton is not installed")
    from tests.model.cuda.running import cuda_runner

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    runner = cuda_runner(device, num_slots=4, model=load_model(checkpoint))
    settings = Settings(model=str(checkpoint), port=0, device="cpu", dtype="float32", max_running=4, _env_file=None)
    with running_server(settings, lambda _: runner) as running:
        yield running


def refuse_native(*_: object) -> NoReturn:
    raise NativeUnavailable("not in this test")


@pytest.fixture
def logging_kept() -> Iterator[None]:
    """For a test that configures the log as a service does for its process's life: it is as before afterwards."""
    root, configured = logging.getLogger(), structlog.get_config()
    before, level = root.handlers, root.level
    yield
    root.handlers, root.level = before, level
    structlog.configure(**configured)


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client
