"""Whether a network of certain sizes can answer a request, told before anything is computed. Knows no tensors.

What types alone tell is taken for granted: that a mode is one of the modes, a position a whole number.
"""

from collections.abc import Iterator, Sequence
from functools import singledispatchmethod

from model.config import GPT2Config
from model.inspection.names import UnknownName, axes, expand, head_axis, nearest, shape, shown, token_axis
from model.inspection.request import (
    SUMMARIES,
    Ablation,
    AttentionPosition,
    AttentionWindow,
    HeadAblation,
    InspectionError,
    InspectionRequest,
    LayerNormAblation,
    MLPAblation,
    NoResidual,
    Numbers,
    Patch,
    PositionEmbeddings,
    Steering,
    Values,
    counted,
)
from model.inspection.sizes import num_bytes, patches_bytes, summaries_bytes

MAX_TOP_N = 20
MAX_NEW_TOKENS = 64
MAX_ABLATIONS = 32
MAX_ACTIVATION_BYTES = 32 << 20  # of an answer: a JSON document of 32 MiB of float32 has about 100 MB
MAX_PATCH_BYTES = 256 << 20  # of other prompts' activations, which are held beside the run that they are put into
MAX_SEED = 2**63 - 1
MAX_FLOAT32 = 3.4028234663852886e38


def check(request: InspectionRequest, config: GPT2Config) -> None:
    """Raises InspectionError for the first thing that a network of these sizes cannot answer, an answer's size excepted."""
    _Checker(request, config).check()


def check_size(request: InspectionRequest, config: GPT2Config) -> None:
    """Raises InspectionError where an answer, or what it takes, would be larger than it may be. The request has been checked."""
    size, of_summaries = num_bytes(request, config), summaries_bytes(request, config)
    if size > MAX_ACTIVATION_BYTES:
        what, field = ("activations", "names") if size > 2 * of_summaries else ("summaries", "summaries")
        raise InspectionError(
            field,
            f"activations and summaries would have {size:,} bytes as float32; an answer has at most {MAX_ACTIVATION_BYTES:,}: "
            f"ask for fewer {what} or positions",
        )
    held = patches_bytes(request, config)
    if held > MAX_PATCH_BYTES:
        raise InspectionError(
            "ablations",
            f"what is patched in from other prompts would have {held:,} bytes; it has at most {MAX_PATCH_BYTES:,}: patch fewer "
            "activations, positions or heads",
        )


class _Checker:
    def __init__(self, request: InspectionRequest, config: GPT2Config) -> None:
        self.request, self.config, self.num_prompt = request, config, len(request.prompt)

    def check(self) -> None:
        request = self.request
        self.prompt("prompt", request.prompt)
        for i, pattern in enumerate(request.names):
            self.names(f"names[{i}]", pattern)
        self.distinct_positions("positions", request.positions)
        for i, summary in enumerate(request.summaries):
            self.summary(f"summaries[{i}]", summary)
        self.each_once("summaries", "the summary", request.summaries)
        self.within("it", request.top_n, 1, MAX_TOP_N, "top_n")
        self.position("target_position", request.target_position)
        self.token("target_token", request.target_token)
        self.within("it", request.max_new_tokens, 0, MAX_NEW_TOKENS, "max_new_tokens")
        self.within("the number of ablations", len(request.ablations), 0, MAX_ABLATIONS, "ablations")
        for i, ablation in enumerate(request.ablations):
            self.ablation(ablation, f"ablations[{i}].")

    def prompt(self, field: str, token_ids: tuple[int, ...]) -> None:
        self.within("the number of tokens", len(token_ids), 1, self.config.n_positions, field)
        for token_id in token_ids:
            self.token(field, token_id)

    def token(self, field: str, token_id: int | None) -> None:
        if token_id is not None:
            self.within("the token id", token_id, 0, self.config.vocab_size - 1, field)

    def names(self, field: str, pattern: str) -> list[str]:
        try:
            return expand(pattern, self.config)
        except UnknownName as error:
            raise InspectionError(field, str(error)) from None

    def name(self, field: str, name: str) -> None:
        if "*" in name:
            raise InspectionError(field, f"{shown(name)} is a pattern; it must name one activation")
        self.names(field, name)

    def summary(self, field: str, summary: str) -> None:
        if summary not in SUMMARIES:
            raise InspectionError(field, f"{shown(summary)} is no summary; the nearest is {nearest(summary, SUMMARIES)!r}")
        if summary == "layer_norm_order" and self.num_prompt < 2:
            raise InspectionError(field, "'layer_norm_order' takes the loss of a text, and of one token there is none")

    def positions(self, field: str, positions: tuple[int, ...] | None, num_tokens: int | None = None) -> None:
        if positions == ():
            raise InspectionError(field, "it is empty; leave it out for all positions")
        if positions is None:
            return
        self.within("the number of positions", len(positions), 1, self.num_prompt, field)
        for i, position in enumerate(positions):
            self.position(f"{field}[{i}]", position, num_tokens)

    def distinct_positions(self, field: str, positions: tuple[int, ...] | None) -> None:
        """Of the prompt, from whichever end they are counted."""
        self.positions(field, positions)
        self.each_once(field, "the position", counted(positions, self.num_prompt) if positions else ())

    def each_once(self, field: str, what: str, values: Sequence[int | str]) -> None:
        first: dict[int | str, int] = {}
        for i, value in enumerate(values):
            if first.setdefault(value, i) != i:
                raise InspectionError(f"{field}[{i}]", f"{what} {value} stands at {field}[{first[value]}] already; name it once")

    def position(self, field: str, position: int, num_tokens: int | None = None) -> None:
        num_tokens = self.num_prompt if num_tokens is None else num_tokens
        self.within("the position", position, -num_tokens, num_tokens - 1, field)

    def layers(self, at: str, layers: Numbers) -> None:
        self.numbers(f"{at}layer", "the layer", layers, self.config.n_layer)

    def heads(self, at: str, heads: Numbers) -> None:
        self.numbers(f"{at}head", "the head", heads, self.config.n_head)

    def numbers(self, field: str, what: str, numbers: Numbers, count: int) -> None:
        if numbers == ():
            raise InspectionError(field, "it is empty; leave it out for all")
        if isinstance(numbers, int):
            self.within(what, numbers, 0, count - 1, field)
        elif numbers is not None:
            self.within("the number of them", len(numbers), 1, count, field)
            for i, number in enumerate(numbers):
                self.within(what, number, 0, count - 1, f"{field}[{i}]")
            self.each_once(field, what, numbers)

    def within(self, what: str, value: int, low: int, high: int, field: str) -> None:
        if not low <= value <= high:
            raise InspectionError(field, f"{what} is {value}; it must be from {low} to {high}")

    # Ablations; `at` is how the names of their fields begin.

    @singledispatchmethod
    def ablation(self, ablation: Ablation, at: str) -> None:
        raise NotImplementedError(type(ablation).__name__)

    @ablation.register
    def _(self, ablation: NoResidual | LayerNormAblation | MLPAblation, at: str) -> None:
        self.layers(at, ablation.layer)
        if isinstance(ablation, LayerNormAblation) and ablation.name == "ln_final" and ablation.layer is not None:
            raise InspectionError(f"{at}layer", "'ln_final' is of no layer; leave it out")

    @ablation.register
    def _(self, ablation: HeadAblation, at: str) -> None:
        self.layers(at, ablation.layer)
        self.heads(at, ablation.head)

    @ablation.register
    def _(self, ablation: AttentionWindow, at: str) -> None:
        self.layers(at, ablation.layer)
        self.heads(at, ablation.head)
        self.within("the size", ablation.size, 1, self.config.n_positions, f"{at}size")

    @ablation.register
    def _(self, ablation: AttentionPosition, at: str) -> None:
        self.layers(at, ablation.layer)
        self.heads(at, ablation.head)
        self.position(f"{at}position", ablation.position)

    @ablation.register
    def _(self, ablation: PositionEmbeddings, at: str) -> None:
        self.within("the seed", ablation.seed, 0, MAX_SEED, f"{at}seed")

    @ablation.register
    def _(self, patch: Patch, at: str) -> None:
        self.name(f"{at}name", patch.name)
        self.distinct_positions(f"{at}positions", patch.positions)
        if patch.head is not None:
            if head_axis(patch.name) is None:
                raise InspectionError(f"{at}head", f"{patch.name!r} has no axis of heads")
            self.heads(at, patch.head)
        self.one_of(at, prompt=patch.prompt, values=patch.values)
        if patch.prompt is not None:
            self.patch_of_prompt(patch, patch.prompt, at)
        else:
            self.patch_of_values(patch, at)

    def patch_of_prompt(self, patch: Patch, prompt: tuple[int, ...], at: str) -> None:
        self.prompt(f"{at}prompt", prompt)
        taken, field = patch.from_positions, f"{at}from_positions"
        if taken is None:
            taken, field = patch.positions, f"{at}positions"
        if (taken is None) != (patch.positions is None) or len(taken or ()) != len(patch.positions or ()):
            raise InspectionError(
                field, f"{len(taken or ())} positions are to be taken from, {len(patch.positions or ())} to be put into"
            )
        self.positions(field, taken, len(prompt))
        same = taken is None or counted(taken, len(prompt)) == counted(patch.positions, self.num_prompt)
        if axes(patch.name).endswith("T") and not same:
            raise InspectionError(
                field, f"rows of {patch.name!r} can be taken from the same positions alone: each has its own keys"
            )

    def patch_of_values(self, patch: Patch, at: str) -> None:
        if patch.from_positions is not None:
            raise InspectionError(f"{at}from_positions", "given values are of no prompt; leave it out")
        due = list(shape(patch.name, self.config, self.num_prompt))
        if patch.positions is not None:
            due[token_axis(patch.name)] = len(patch.positions)
        heads = head_axis(patch.name)
        if patch.head is not None and heads is not None:
            del due[heads]
        assert patch.values is not None
        self.values(f"{at}values", patch.values, tuple(due), may_be_masked=patch.name.endswith("scores"))

    @ablation.register
    def _(self, steering: Steering, at: str) -> None:
        self.name(f"{at}name", steering.name)
        if axes(steering.name) != "TC":
            raise InspectionError(
                f"{at}name", f"{steering.name!r} is not of {self.config.n_embd} numbers a token, as directions are"
            )
        self.distinct_positions(f"{at}positions", steering.positions)
        self.one_of(at, direction=steering.direction, token=steering.token, plus=steering.plus)
        if (steering.plus is None) != (steering.minus is None):
            raise InspectionError(f"{at}minus", "a direction between two prompts needs both, plus and minus")
        if steering.direction is not None:
            self.values(f"{at}direction", steering.direction, (self.config.n_embd,), may_be_masked=False)
        self.token(f"{at}token", steering.token)
        for name, prompt in (("plus", steering.plus), ("minus", steering.minus)):
            if prompt is not None:
                self.prompt(f"{at}{name}", prompt)
        self.values(f"{at}scale", (steering.scale,), (1,), may_be_masked=False)

    def one_of(self, at: str, **values: object) -> None:
        given = [name for name, value in values.items() if value is not None]
        if len(given) != 1:
            found = f"there are {' and '.join(given)}" if given else "there is none"
            raise InspectionError(f"{at}{(given or [*values])[-1]}", f"one of {', '.join(values)} is needed; {found}")

    def values(self, field: str, values: Values, due: tuple[int, ...], may_be_masked: bool) -> None:
        found = _shape(values)
        if found != due:
            have = "rows of different lengths" if found is None else f"the shape {_written(found)}"
            raise InspectionError(field, f"the values have {have}; they must have the shape {_written(due)}")
        for value in _leaves(values):
            if value is None and may_be_masked:
                continue
            if value is None or not abs(value) <= MAX_FLOAT32:  # which NaN is not either
                said = "one of the integers" if isinstance(value, int) else value  # which may have thousands of digits
                raise InspectionError(field, f"{said} is no number of float32")


def _shape(values: Values | float | None) -> tuple[int, ...] | None:
    """Of nested numbers; None where they are ragged."""
    if not isinstance(values, tuple):
        return ()
    inner = {_shape(value) for value in values}
    if not inner:
        return (0,)
    shape = inner.pop()
    return None if shape is None or inner else (len(values), *shape)


def _leaves(values: Values | float | None) -> Iterator[float | None]:
    if isinstance(values, tuple):
        for value in values:
            yield from _leaves(value)
    else:
        yield values


def _written(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
