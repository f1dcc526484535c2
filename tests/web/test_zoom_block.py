"""The X-ray's second level: the inside of a block, its LayerNorms and its MLP, held against the service's own numbers."""

import json

import pytest
from selenium.webdriver import Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.web.zoom_page import Zoom, norm, number, shown


def test_arrows_on_the_diagram_lead_through_the_parts_of_a_block(zoom: Zoom) -> None:
    zoom.open(layer=1)
    assert zoom.text(".zoom-title") == "Block 1 of 0–1"
    diagram = zoom.one(".zoom-wide [aria-checked=true]")
    assert diagram.get_attribute("aria-label") == "Attention"
    diagram.send_keys(Keys.HOME)
    names, titles = [], []
    for _ in range(7):
        zoom.until_there()
        names.append(zoom.one(".zoom-wide [aria-checked=true]").get_attribute("aria-label"))
        titles.append(zoom.text(".zoom-explanation h3"))
        zoom.one(".zoom-wide [aria-checked=true]").send_keys(Keys.ARROW_RIGHT)
    assert names[0] == "LayerNorm 1"
    assert names[-1] == "Final norm"
    assert titles == ["LayerNorm", "Attention", "Residual connection", "LayerNorm", "MLP", "Residual connection", "LayerNorm"]


def test_the_diagram_tells_the_norms_of_the_chosen_position(zoom: Zoom) -> None:
    zoom.open(layer=0, position=3)
    names = ["hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out"]
    told = zoom.activations(*[f"blocks.0.{name}" for name in names])
    for position in (3, 4):
        figures = [float(figure.text.removeprefix("+ ")) for figure in zoom.all(".zoom-wide .zoom-norm")]
        assert figures == [pytest.approx(norm(told[f"blocks.0.{name}"][position]), abs=6e-3) for name in names]
        zoom.one(".zoom-token[aria-checked=true]").send_keys(Keys.ARROW_RIGHT)


def test_the_next_block_is_a_click_away(zoom: Zoom) -> None:
    zoom.open(layer=0)
    previous, following = zoom.all(".zoom-where button")
    assert not previous.is_enabled()
    following.click()
    zoom.page.until(lambda: zoom.text(".zoom-title") == "Block 1 of 0–1")
    zoom.until_there()
    assert previous.is_enabled()
    assert not following.is_enabled()
    zoom.page.until(lambda: "layer=1" in zoom.page.browser.current_url)  # so that a link leads here


# ---- LayerNorm and MLP


def told(figure: WebElement) -> dict[str, float]:
    """What stands below a histogram: its mean, deviation and range."""
    words = str(figure.find_element(By.CSS_SELECTOR, "figcaption").text).replace(";", "").replace(",", "").split()
    return {"mean": number(words[1]), "deviation": number(words[3]), "low": number(words[5]), "high": number(words[7])}


@pytest.mark.parametrize(
    ("name", "before", "hook"),
    [
        ("ln1", "blocks.1.hook_resid_pre", "blocks.1.ln1"),
        ("ln2", "blocks.1.hook_resid_mid", "blocks.1.ln2"),
        ("ln_final", "blocks.1.hook_resid_post", "ln_final"),
    ],
)
def test_layer_norm_goes_step_by_step_over_the_features_of_one_token(zoom: Zoom, name: str, before: str, hook: str) -> None:
    zoom.open(layer=1, position=4)
    zoom.part(name)
    hooks = zoom.activations(before, f"{hook}.hook_scale", f"{hook}.hook_normalized")
    x, scale, y = (hooks[key][4] for key in (before, f"{hook}.hook_scale", f"{hook}.hook_normalized"))
    first, centred, scaled, last = (told(figure) for figure in zoom.all(".zoom-figure"))
    mean = sum(x) / len(x)
    assert first == {"mean": shown(mean), "deviation": shown(scale[0]), "low": shown(min(x)), "high": shown(max(x))}
    assert centred["mean"] == 0
    assert centred["low"] == shown(min(x) - mean)
    assert (scaled["mean"], scaled["deviation"]) == (0, shown(1))
    assert scaled["high"] == shown((max(x) - mean) / scale[0])
    assert (last["mean"], last["high"]) == (shown(sum(y) / len(y)), shown(max(y)))


def test_the_mlp_tells_its_strongest_neurons_and_how_many_are_silent(zoom: Zoom) -> None:
    zoom.open(layer=1, position=4)
    zoom.part("mlp")
    hooks = zoom.activations("blocks.1.mlp.hook_pre", "blocks.1.mlp.hook_post")
    pre, post = (values[4] for values in hooks.values())
    rows = [[cell.text for cell in row.find_elements(By.CSS_SELECTOR, "th, td")] for row in zoom.all(".zoom-neurons tbody tr")]
    strongest = sorted(range(len(post)), key=lambda neuron: -abs(post[neuron]))[: len(rows)]
    assert [int(row[0]) for row in rows] == strongest
    assert [number(row[1]) for row in rows] == [shown(pre[neuron]) for neuron in strongest]
    assert [number(row[2]) for row in rows] == [shown(post[neuron]) for neuron in strongest]
    silent = sum(value <= 0 for value in pre)
    assert zoom.text(".zoom-figures > div > .zoom-note").startswith(f"{silent} of {len(pre)} neurons")


def test_a_layer_norm_that_is_taken_out_shows_no_steps_that_it_has_not(zoom: Zoom) -> None:
    for mode, count in (("identity", 1), ("mean_only", 3)):
        ablation = {"kind": "layer_norm", "name": "ln1", "layer": 1, "mode": mode}
        zoom.open(layer=1, position=4, run="ablated", ablations=json.dumps([ablation]))
        zoom.part("ln1")
        assert sum(figure.is_displayed() for figure in zoom.all(".zoom-figure")) == count
        assert zoom.text(".zoom-part-panel .notice").startswith("Ablated:")
