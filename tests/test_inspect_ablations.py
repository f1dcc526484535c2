"""What `gpt2 inspect --ablate` reads: short forms and JSON, each to the object that POST /v1/inspect takes."""

import re

import pytest

from app.api.inspect import ablation_of
from app.commands.inspect_ablations import FORMS, read_ablation
from app.errors import CommandError
from app.schemas.inspection import KINDS

READ = {
    "no_residual:attention": {"kind": "no_residual", "branch": "attention"},
    "no_residual:mlp:3,4": {"kind": "no_residual", "branch": "mlp", "layer": [3, 4]},
    "layer_norm:ln1=identity": {"kind": "layer_norm", "name": "ln1", "mode": "identity"},
    "layer_norm:ln2:3=mean_only": {"kind": "layer_norm", "name": "ln2", "layer": 3, "mode": "mean_only"},
    "layer_norm:ln_final=identity": {"kind": "layer_norm", "name": "ln_final", "mode": "identity"},
    "head:3.5=zero": {"kind": "head", "layer": 3, "head": 5, "mode": "zero"},
    "head:3=zero": {"kind": "head", "layer": 3, "mode": "zero"},
    "head:3.5,7=mean": {"kind": "head", "layer": 3, "head": [5, 7], "mode": "mean"},
    "mlp:3,4=mean": {"kind": "mlp", "layer": [3, 4], "mode": "mean"},
    "mlp=zero": {"kind": "mlp", "mode": "zero"},
    "window:4": {"kind": "attention_window", "size": 4},
    "window:4:3.5": {"kind": "attention_window", "size": 4, "layer": 3, "head": 5},
    "position:0": {"kind": "attention_position", "position": 0},
    "position:0:3.5": {"kind": "attention_position", "position": 0, "layer": 3, "head": 5},
    "positions=none": {"kind": "positions", "mode": "none"},
    "positions=shuffled": {"kind": "positions", "mode": "shuffled"},
    "positions=shuffled:7": {"kind": "positions", "mode": "shuffled", "seed": 7},
    "patch:blocks.3.hook_resid_post=A dog = a pet": {
        "kind": "patch",
        "name": "blocks.3.hook_resid_post",
        "prompt": "A dog = a pet",
    },
    "steer:blocks.4.hook_resid_pre= love": {"kind": "steer", "name": "blocks.4.hook_resid_pre", "token": " love"},
    "steer:blocks.4.hook_resid_pre:-8.5= love": {
        "kind": "steer",
        "name": "blocks.4.hook_resid_pre",
        "scale": -8.5,
        "token": " love",
    },
    ' {"kind": "head", "layer": 3, "head": 5}': {"kind": "head", "layer": 3, "head": 5},
}


@pytest.mark.parametrize(("form", "read"), READ.items(), ids=READ)
def test_a_form_is_the_object_that_the_api_takes(form, read):
    assert read_ablation(form) == read
    assert ablation_of(read, "ablations[0]").kind == read["kind"]


def test_every_kind_has_a_short_form():
    assert {read["kind"] for read in READ.values()} == KINDS.keys()


def test_every_form_that_the_help_lists_is_read():
    forms = [form for line in FORMS.splitlines() for form in re.findall(r"(?:^  |; )([a-z_]+[:=][\w.,:=]*)", line)]
    assert len(forms) >= 15
    for form in forms:
        read_ablation(form)


@pytest.mark.parametrize(
    "form", ["", "head", "head:3.5", "head:x=zero", "headless:3=zero", "window:", "window:-4", "positions", "mlp:=zero"]
)
def test_another_form_is_refused_with_an_example(form):
    with pytest.raises(CommandError, match=re.escape(f"--ablate {form!r} is none of the forms; `gpt2 inspect --help` lists them")):
        read_ablation(form)


@pytest.mark.parametrize("form", ["{", '{"kind": }', "{" * 100_000])
def test_broken_json_is_told_as_such(form):
    with pytest.raises(CommandError, match="begins as JSON, and is none: ") as raised:
        read_ablation(form)
    assert len(str(raised.value)) < 1000
