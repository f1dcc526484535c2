"""What would compute, in which precision, and whether it has room: as the service would choose, without packing a weight."""

from typing import NamedTuple

from app.bootstrap import no_room, wanted_of
from app.doctor.cards import cards, gpu
from app.doctor.finding import Finding, advice, ok, problem
from app.doctor.room import memory
from app.settings import Settings
from model.choice import ChoiceError, Foreseen, choose_device, foresee
from model.config import GPT2Config
from model.memory import Needs
from model.native.library import Precision
from model.native.memory import needs_of


class Computing(NamedTuple):
    """`precisions` stand in the order in which they are tried; None where nothing could compute."""

    device: str | None = None
    foreseen: Foreseen | None = None
    precisions: tuple[str, ...] = ()


def computing(settings: Settings) -> tuple[list[Finding], Computing]:
    """The device and what runs on it."""
    found, driver = cards()
    try:
        device = choose_device(settings.device)
    except ChoiceError as error:
        return [problem("gpu", error)], Computing()
    findings = [gpu(found, driver, settings.device, device)]
    try:
        foreseen = foresee(wanted_of(settings, device))
    except ChoiceError as error:
        return [*findings, problem("kernels", error)], Computing(device)
    planned = Computing(device, foreseen, _precisions(settings.dtype, foreseen.backend, device))
    return [*findings, _kernels(planned)], planned


def _precisions(dtype: str, backend: str, device: str) -> tuple[str, ...]:
    if dtype != "auto":
        return (dtype,)
    if backend == "native":
        return ("int8", "float32")
    return ("bfloat16",) if device == "cuda" else ("float32",)


def _kernels(planned: Computing) -> Finding:
    assert planned.foreseen is not None
    backend, kernels, _, reason = planned.foreseen
    if reason:
        text = f"PyTorch in {planned.precisions[0]}, several times slower than the native step: {reason}"
        return advice("kernels", text, "install a C++ compiler, then this package again")
    if backend != "native":
        return ok("kernels", f"{kernels[0]} in {planned.precisions[0]}")
    by_clock = f" ({', '.join(kernels)} can run, the fastest is measured)" if len(kernels) > 1 else ""
    precision = " or ".join(planned.precisions)
    why = ": int8 unless it costs this checkpoint over 1 % of perplexity, which is measured" if len(planned.precisions) > 1 else ""
    return ok("kernels", f"native, {kernels[0]}{by_clock}, in {precision}{why}")


def room(settings: Settings, planned: Computing, config: GPT2Config) -> tuple[Finding, int | None]:
    """Memory of the machine or, where a card computes, of the card; and how many cache slots there would be."""
    assert planned.foreseen is not None
    if planned.device == "cuda":
        return _room_on_card(settings, config)
    return memory(_ladder(planned, config), settings.max_running)


def _ladder(planned: Computing, config: GPT2Config) -> list[Needs]:
    assert planned.foreseen is not None
    if planned.foreseen.backend == "native":
        return [needs_of(config, Precision[name.upper()]) for name in planned.precisions]
    from model import torch_choice

    return [torch_choice.needs_of(config, 2 if name == "bfloat16" else 4) for name in planned.precisions]


def _room_on_card(settings: Settings, config: GPT2Config) -> tuple[Finding, int | None]:
    from model.torch_choice import choose_card

    lines: list[str] = []
    try:
        card = choose_card(config, wanted_of(settings, "cuda"), lines.append)
    except ChoiceError as error:
        return problem("memory", error), None
    except MemoryError as error:
        return problem("memory", no_room(settings, error)), None
    dtype, free = str(card.dtype).removeprefix("torch."), f"{card.free_bytes / 1e9:,.1f} GB"
    text = f"room for {card.num_slots} slots in {dtype} on the card, where {free} are free"
    if lines:
        return advice("memory", f"{text}: {'; '.join(lines)}", "free the card's memory"), card.num_slots
    return ok("memory", text), card.num_slots
