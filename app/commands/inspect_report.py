"""The answer of an inspection as a screen of text, 44 to 80 columns wide. Knows the answer of POST /v1/inspect, and no network.

Of a run with ablations the sections from the layers on show what the ablated run does; the sections before them compare both.
"""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

from app.commands.inspect_cells import (
    BLUE,
    BOLD,
    DIM,
    GREEN,
    RED,
    WIDTH,
    Style,
    clipped,
    escaped,
    left,
    percent,
    quoted,
    right,
    shrunk,
    wrapped,
)

Json = dict[str, Any]

MAX_ROWS = 64  # tokens in a table; of a longer text the last ones
NUM_PARTS = 10  # that an attribution shows by name
NUM_HEADS = 4  # of each kind of attention
UNLIKELY = 0.01  # a token less probable than this is painted
ATTENTION = {
    "previous": "the token before",
    "first": "the first token",
    "self": "itself",
    "induction": "what came after it",
}


def report(answer: Json, ablations: Sequence[str], style: Style) -> str:
    run = answer["ablated"] or answer["run"]
    sections = [_head(answer, style)]
    if answer["ablated"]:
        sections.append(_comparison(answer, ablations, style))
    sections += [_tokens(answer, style), _next(answer["run"], style) if not answer["ablated"] else []]
    sections += [_layers(answer, run, style), _attribution(run["summaries"]["attribution"], style)]
    sections.append(_attention(run["summaries"]["attention"], style))
    if "layer_norm_order" in answer:
        sections.append(_order(answer["layer_norm_order"], style))
    if run["activations"]:
        sections.append(_activations(run["activations"], style))
    return "\n\n".join("\n".join(line.rstrip() for line in lines) for lines in sections if lines) + "\n"


def _loss(run: Json) -> str:
    return "which nothing predicts" if run["loss"] is None else f"loss {run['loss']:.4f} nats a token"


def _head(answer: Json, style: Style) -> list[str]:
    number = len(answer["tokens"])
    tokens = f"{number} token" if number == 1 else f"{number} tokens"
    return _title(f"{clipped(escaped(answer['model']), 40)}, {answer['dtype']}: {tokens}, {_loss(answer['run'])}", style)


def _title(text: str, style: Style) -> list[str]:
    return [style.paint(line, BOLD) for line in wrapped(text, style.width)]


# ---- what the ablations change


def _comparison(answer: Json, ablations: Sequence[str], style: Style) -> list[str]:
    run, ablated = answer["run"], answer["ablated"]
    half = style.width // 2
    lines = _title(clipped("with " + escaped(", ".join(ablations)), style.width), style)
    if run["loss"] is not None:
        change = ablated["loss"] - run["loss"]
        colour = RED if change > 0 else GREEN
        lines.append(f"  loss {run['loss']:.4f} becomes {ablated['loss']:.4f} ({style.paint(f'{change:+.4f}', colour)})")
    lines += ["", left("  next, as it is", half) + "next, ablated"]
    for one, other in zip(run["next"], ablated["next"], strict=True):
        cell = min(25, half - 10)
        lines.append("  " + left(_likely(one, cell), half - 2) + _likely(other, cell))
    for name, which in (("as it is", run), ("ablated", ablated)):
        lines += _continuation(f"  goes on, {name}: ", which, style)
    return lines


def _likely(token: Json, cell: int = 25) -> str:
    return left(quoted(token["text"], cell - 1), cell) + right(percent(token["probability"]), 7)


def _continuation(name: str, run: Json, style: Style) -> list[str]:
    if run["continuation"] is None:
        return []
    return wrapped(f'{name}"{escaped(run["continuation"]["text"])}"', style.width, "    ")


# ---- the tokens


def _tokens(answer: Json, style: Style) -> list[str]:
    run, ablated, tokens = answer["run"], answer["ablated"], answer["tokens"]
    pull = (ablated or run)["summaries"]["prompt_attribution"]
    largest = max((-logprob for which in (run, ablated) if which for logprob in which["logprobs"][1:]), default=0.0)
    strongest = max((abs(score) for score in pull["scores"]), default=0.0)
    named = quoted(pull["token"]["text"], 18)
    second = right("ablated", 8) if ablated else right("came by", 8)
    cell, *bars = shrunk((17, 14, 15), (8, 0, 0), style.width - 32)
    lines = _title("the tokens: surprise in nats, and how each pulls on what comes next", style)
    head = left("   #  token", 6 + cell) + right("surprise", 9) + second + " " * (bars[0] + 2)
    head += f" pull on {named}" if bars[1] else right("pull", 7)
    lines.append(style.paint(clipped(head, style.width), DIM))
    lines += _left_out(len(tokens) - MAX_ROWS, style)
    for place in range(max(0, len(tokens) - MAX_ROWS), len(tokens)):
        surprise = _surprise(run["logprobs"][place], ablated and ablated["logprobs"][place], largest, bars[0], style)
        score = pull["scores"][place]
        bar = _bar(score, strongest, bars[1], GREEN if score > 0 else RED, style)
        named = left(quoted(tokens[place]["text"], cell - 1), cell)
        lines.append(f"{right(str(place), 4)}  {named}{surprise}  {right(f'{score:+.2f}', 7)}{bar}")
    return lines


def _left_out(number: int, style: Style) -> list[str]:
    if number <= 0:
        return []
    which = "token is" if number == 1 else f"{number} are"
    return [
        style.paint(line, DIM) for line in wrapped(f"      the first {which} left out here; --json has them", style.width, "      ")
    ]


def _bar(value: float, largest: float, width: int, colour: str, style: Style) -> str:
    """A bar behind a space, `width` columns in all; of none it is nothing."""
    return " " + style.paint(style.bar(value, largest, width - 1), colour) if width else ""


def _surprise(logprob: float | None, ablated: float | None, largest: float, width: int, style: Style) -> str:
    """17 columns: the surprise, the token's probability or the ablated run's surprise; and a bar."""
    if logprob is None:  # of the first token, which nothing came before
        return " " * (17 + width)
    shown = logprob if ablated is None else ablated
    second = percent(_probability(logprob)) if ablated is None else f"{-ablated:.2f}"
    bar = _bar(-shown, largest, width, RED if _probability(shown) < UNLIKELY else BLUE, style)
    return f"{right(f'{-logprob:.2f}', 8)}{right(second, 9)}{bar}"


def _probability(logprob: float) -> float:
    return float(2.718281828459045**logprob)


def _next(run: Json, style: Style) -> list[str]:
    lines = _title("what comes next", style)
    largest = max(token["probability"] for token in run["next"])
    for token in run["next"]:
        bar = _bar(token["probability"], largest, min(31, style.width - 38), BLUE, style)
        lines.append(f"      {_likely(token)}{bar}")
    return lines + _continuation("      goes on: ", run, style)


# ---- the layers


def _layers(answer: Json, run: Json, style: Style) -> list[str]:
    """The stream and the logit lens at the last of the chosen positions."""
    norms, lens = run["summaries"]["norms"], run["summaries"]["lens"]
    token = run["summaries"]["attribution"]["token"]
    streams = [norms["resid_pre"][0][-1], *(layer[-1] for layer in norms["resid_post"])]
    adds, share = style.width >= 72, style.width >= 50  # what is left out where there is no room for it
    cell, width = shrunk((15, 9), (8, 0), style.width - 30 - 18 * adds - 8 * share)
    lines = _title(f"norms and logit lens along the layers, at the last position{_which(answer)}", style)
    for first, attention, mlp, stream, said, rank in (
        ("", "attention", "MLP", "the", "would say", "rank of"),
        ("layer", "adds", "adds", "stream", "next", quoted(token["text"], 6 + 8 * share)),
    ):
        names = right(first, 6) + (right(attention, 11) + right(mlp, 8) if adds else " ") + right(stream, 9) + " " * width
        lines.append(style.paint(f"{names} {left(said, cell + 6)}{right(rank, 7 + 8 * share)}", DIM))
    for depth, stream in enumerate(streams):
        added = ["", ""] if not depth else [_number(norms[name][depth - 1][-1]) for name in ("attn_out", "mlp_out")]
        cells = right("embed" if not depth else str(depth - 1), 6) + (right(added[0], 11) + right(added[1], 8) if adds else " ")
        said = lens["top"][depth][-1][0]
        cells += right(_number(stream), 9) + _bar(stream, max(streams), width, BLUE, style)
        cells += f" {left(quoted(said['text'], cell - 2), cell - 1)}{right(percent(said['probability']), 7)}"
        ranked = right(str(lens["rank"][depth][-1]), 7)
        ranked += right(percent(lens["probability"][depth][-1]), 8) if share else ""
        lines.append(cells + style.paint(ranked, GREEN if lens["rank"][depth][-1] == 0 else ""))
    return lines


def _which(answer: Json) -> str:
    return " (ablated)" if answer["ablated"] else ""


def _number(value: float) -> str:
    return f"{value:.1f}" if value < 1e5 else f"{value:.1e}"


# ---- what makes the logit


def _attribution(attribution: Json, style: Style) -> list[str]:
    parts = sorted(parts_of(attribution), key=lambda part: -abs(part[1]))
    token = quoted(attribution["token"]["text"], 20)
    title = f"what makes the logit of {token} {attribution['logit']:.2f} at position {attribution['position']}"
    lines = _title(f"{title} (LayerNorm's scale frozen)", style)
    largest = abs(parts[0][1])
    for name, value in parts[:NUM_PARTS]:
        bar = _bar(value, largest, min(31, style.width - 35), GREEN if value > 0 else RED, style)
        lines.append(f"      {left(name, 20)}{right(f'{value:+.3f}', 9)}{bar}")
    rest = sum(value for _, value in parts[NUM_PARTS:])
    lines.append(style.paint(f"      {left(f'{len(parts) - NUM_PARTS} others together', 20)}{right(f'{rest:+.3f}', 9)}", DIM))
    return lines


def parts_of(attribution: Json) -> Iterator[tuple[str, float]]:
    yield "token embedding", attribution["embed"]
    yield "position embedding", attribution["pos_embed"]
    yield "last LayerNorm's bias", attribution["ln_final_bias"]
    if attribution["interventions"]:
        yield "what was put in", attribution["interventions"]
    for layer, heads in enumerate(attribution["heads"]):
        yield from ((f"head {layer}.{head}", value) for head, value in enumerate(heads))
        yield f"attention's bias {layer}", attribution["attention_biases"][layer]
        yield f"MLP {layer}", attribution["mlps"][layer]


def _attention(attention: Json, style: Style) -> list[str]:
    """For each kind of attention the heads that do most of it."""
    lines = _title("heads that look most at (mean weight; layer.head)", style)
    in_a_row = (style.width - 26) // 13
    for kind, meaning in ATTENTION.items():
        weights = [
            (weight, f"{layer}.{head}")
            for layer, heads in enumerate(attention[kind])
            for head, weight in enumerate(heads)
            if weight is not None
        ]
        best = sorted(weights, key=lambda one: -one[0])[:NUM_HEADS]
        shown = [f"{right(name, 7)} {right(f'{100 * weight:.0f} %', 5)}" for weight, name in best]
        rows = ["".join(shown[first : first + in_a_row]) for first in range(0, len(shown), in_a_row)]
        lines += [
            f"      {left(name, 20)}{row}" for name, row in zip_longest([meaning], rows or ["none in this text"], fillvalue="")
        ]
    return lines


def _order(order: Json, style: Style) -> list[str]:
    lines = _title("gradient norms of an untrained network of these sizes, by LayerNorm's place", style)
    width = min(22, (style.width - 30) // 2)
    largest = max(*order["pre"]["gradient_norms"], *order["post"]["gradient_norms"])
    head = left("  layer   before (GPT-2)", 24 + width) + "after (2017)"
    lines.append(style.paint(clipped(head, style.width), DIM))
    for layer, (pre, post) in enumerate(zip(order["pre"]["gradient_norms"], order["post"]["gradient_norms"], strict=True)):
        bars = (f"{value:9.4f} {style.paint(style.bar(value, largest, width), BLUE)}" for value in (pre, post))
        lines.append(f"{right(str(layer), 7)}" + "   ".join(bars))
    return lines


def _activations(activations: Json, style: Style) -> list[str]:
    lines = _title("activations, as shapes; --json and --safetensors save their numbers", style)
    for name, activation in activations.items():
        cell = left(name, 44) if style.width == WIDTH else name
        lines += wrapped(f"      {cell} {' x '.join(map(str, activation['shape']))}", style.width, " " * 8)
    return lines
