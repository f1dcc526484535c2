"""The tables of docs/inside.md, written from the figures that benchmarks/inside.py measures, between the page's markers."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from app.commands.inspect_report import parts_of

Json = dict[str, Any]
# What is taken out, and what that is in words; of the text HARBOUR, which is the first of examples/heads.py.
ABLATIONS = {
    "no_residual:attention": "attention replaces the stream, in every layer",
    "no_residual:mlp": "the MLP replaces the stream, in every layer",
    "layer_norm:ln1=identity": "no LayerNorm before attention",
    "layer_norm:ln2=identity": "no LayerNorm before the MLPs",
    "layer_norm:ln_final=identity": "no LayerNorm at the end",
    "layer_norm:ln1=mean_only": "before attention without the division",
    "layer_norm:ln2=mean_only": "before the MLPs without the division",
    "mlp=zero": "no MLP",
    "mlp:0=zero": "not the first MLP",
    "mlp:4=zero": "not the MLP of layer 4",
    "window:1": "each token sees itself alone",
    "window:4": "each token sees the last four",
    "window:16": "each token sees the last sixteen",
    "positions=none": "no position embeddings",
    "positions=shuffled": "position embeddings in another order",
}


def with_figures(page: str, figures: Json) -> str:
    """The page with what stands between its markers made anew."""
    for name, write in BLOCKS.items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", flags=re.DOTALL)
        text = "\n".join(write(figures))
        page, count = marked.subn(lambda match, text=text: f"{match[1]}{text}\n{match[2]}", page)  # type: ignore[misc]
        assert count == 1, f"docs/inside.md has no place for {name}"
    return page


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell) for cell in row) + " |" for row in lines]


def _code(text: str) -> str:
    """A token or a text as code in a table's cell."""
    return "`" + json.dumps(text, ensure_ascii=False).replace("|", "\\|").replace("`", "'") + "`"


def _share(probability: float) -> str:
    return f"{100 * probability:.1f} %" if probability >= 0.001 else "< 0.1 %"


def _tokens(figures: Json) -> list[str]:
    sea = figures["sea"]
    rows = zip(sea["tokens"], sea["ids"], sea["embed"], sea["pos_embed"], sea["logprobs"], sea["pull"], strict=True)
    return _table(
        [
            "token",
            "id",
            "norm of its embedding",
            "norm of its position's",
            "surprise, nats",
            f"pull on {_code(sea['next'][0]['text'])}",
        ],
        [
            [_code(text), i, f"{one:.2f}", f"{two:.2f}", "" if logprob is None else f"{-logprob:.2f}", f"{pull:+.2f}"]
            for text, i, one, two, logprob, pull in rows
        ],
    )


def _stream(figures: Json) -> list[str]:
    stream = figures["sea"]["stream"]
    names = ("resid_pre", "attn_out", "attn_cosine", "resid_mid", "mlp_out", "mlp_cosine", "resid_post")
    head = ["layer", "before", "attention adds", "cosine", "between", "the MLP adds", "cosine", "after"]
    columns = [stream[name] for name in names]
    marks = [".2f" if name.endswith("cosine") else ".1f" for name in names]
    rows = [
        [i, *(f"{value:{mark}}" for value, mark in zip(row, marks, strict=True))]
        for i, row in enumerate(zip(*columns, strict=True))
    ]
    return _table(head, rows)


def _layer_norm(figures: Json) -> list[str]:
    norms = figures["sea"]["layer_norm"]
    columns = [norms[name][of] for name in ("ln1", "ln2") for of in ("mean", "deviation")]
    head = ["layer", "mean before attention", "deviation", "mean before the MLP", "deviation"]
    return _table(head, [[i, *(f"{value:.3f}" for value in row)] for i, row in enumerate(zip(*columns, strict=True))])


def _look(figures: Json) -> list[str]:
    sea, look = figures["sea"], figures["sea"]["look"]
    layer, head = figures["heads"]["best"]["previous"]
    yet = [score is not None for score in look["scores"]]
    rows = [
        [_code(text), f"{score:.2f}" if seen else "masked", f"{100 * weight:.1f} %"]
        for text, score, weight, seen in zip(sea["tokens"], look["scores"], look["pattern"], yet, strict=True)
    ]
    asks = _code(sea["tokens"][look["query"]])
    return _table([f"{asks} looks at, head {layer}.{head}", "q·k / 8", "weight after the softmax"], rows)


KINDS = {
    "previous": "the token before, in English text",
    "duplicate": "the same token before, in repeated random tokens",
    "induction": "what followed it before, in repeated random tokens",
}


def _heads(figures: Json) -> list[str]:
    found = figures["heads"]
    rows = [
        [meaning, ", ".join(f"{name}: {score:.3f}" for name, score in found["shown"][kind]), f"{found['chance'][kind]:.3f}"]
        for kind, meaning in KINDS.items()
    ]
    return _table(["looks at", "layer.head: mean weight, the five best", "a head that looks at all alike"], rows)


def _losses(figures: Json) -> list[str]:
    rows = [
        [
            row["zeroed"],
            " ".join(f"{layer}.{head}" for layer, head in row["heads"]),
            *(f"{row[name]:.3f}" for name in ("random", "repetition", "text")),
        ]
        for row in figures["heads"]["losses"]
    ]
    return _table(["zeroed", "layer.head", "random tokens", "their repetition", "English text"], rows)


def _letters(figures: Json) -> list[str]:
    letters = figures["letters"]
    head = ".".join(map(str, figures["heads"]["best"]["induction"]))
    rows = [
        [
            name,
            f"{run['loss']:.3f}",
            ", ".join(f"{_code(token['text'])} {_share(token['probability'])}" for token in run["next"]),
            _code(run["goes_on"]),
        ]
        for name, run in (("as it is", letters["run"]), (f"without head {head}", letters["ablated"]))
    ]
    return _table(["", "loss, nats a token", "next", "goes on"], rows)


def _lens(figures: Json) -> list[str]:
    lens = figures["sea"]["lens"]
    target = _code(figures["sea"]["next"][0]["text"])
    layers = ["embeddings", *(f"layer {i}" for i in range(len(lens["rank"]) - 1))]
    rows = [
        [layer, _code(said["text"]), _share(said["probability"]), rank, _share(probability)]
        for layer, said, rank, probability in zip(layers, lens["said"], lens["rank"], lens["probability"], strict=True)
    ]
    return _table(["after", "would say", "with", f"rank of {target}", "its probability"], rows)


def _attribution(figures: Json) -> list[str]:
    found = figures["sea"]["attribution"]
    parts = sorted(parts_of(found), key=lambda part: -abs(part[1]))
    rows = [[name, f"{value:+.3f}"] for name, value in parts[:10]]
    rest = sum(value for _, value in parts[10:])
    rows += [
        [f"the {len(parts) - 10} others together", f"{rest:+.3f}"],
        ["**sum**", f"**{found['sum']:.4f}**"],
        ["the logit itself", f"{found['logit']:.4f}"],
    ]
    return _table(["part", f"of the logit of {_code(found['token']['text'])}"], rows)


def _ablations(figures: Json) -> list[str]:
    whole = figures["without"][0]["run"]
    rows = [["", "the whole network", f"{whole['loss']:.3f}", _code(whole["goes_on"])]]
    for row in figures["without"]:
        rows.append([f"`{row['form']}`", ABLATIONS[row["form"]], f"{row['ablated']['loss']:.3f}", _code(row["ablated"]["goes_on"])])
    return _table(["`--ablate`", "", "loss, nats a token", "goes on"], rows)


def _order(figures: Json) -> list[str]:
    order = figures["sea"]["order"]
    columns = zip(order["pre"]["gradient_norms"], order["post"]["gradient_norms"], strict=True)
    rows = [[i, *(f"{value:.2f}" for value in row)] for i, row in enumerate(columns)]
    return _table(["layer", "LayerNorm before attention and MLP (GPT-2)", "after the sum (2017)"], rows)


BLOCKS: dict[str, Callable[[Json], list[str]]] = {
    "tokens": _tokens,
    "stream": _stream,
    "layer-norm": _layer_norm,
    "look": _look,
    "heads": _heads,
    "losses": _losses,
    "letters": _letters,
    "lens": _lens,
    "attribution": _attribution,
    "ablations": _ablations,
    "order": _order,
}
