"""Taking parts out on the page, what becomes of the text, and what is said where something goes wrong."""

import json
from typing import Any

import pytest
from selenium.webdriver import Keys
from selenium.webdriver.common.by import By

from tests.web.browsing import Page
from tests.web.xray_page import TEXT, Xray, inspected

NO_RESIDUALS = [{"kind": "no_residual", "branch": "attention"}, {"kind": "no_residual", "branch": "mlp"}]


@pytest.fixture
def xray(page: Page, server: Any) -> Xray:
    return Xray(page, server.url)


def compared(xray: Xray) -> None:
    xray.page.until(lambda: xray.count(".compare .card") == 2)
    xray.until_looked()


def test_a_switch_shows_both_losses_both_texts_and_both_distributions(xray: Xray) -> None:
    xray.open(text=TEXT)
    (whole,) = xray.losses()
    xray.click(".common button:first-child")
    compared(xray)
    answer = inspected(xray.url, TEXT, ablations=NO_RESIDUALS)
    assert xray.losses() == [whole, f"{answer['ablated']['loss']:.3f}"] == [f"{answer['run']['loss']:.3f}", xray.losses()[1]]
    assert xray.texts(".compare .text") == [answer[run]["continuation"]["text"] for run in ("run", "ablated")]
    change = answer["ablated"]["loss"] - answer["run"]["loss"]
    assert "".join(xray.texts(".compare :is(.worse, .better)")).strip() == f"{change:+.3f}".replace("-", "−")
    assert xray.count(".chip") == 3, "two switches, and one that ends both"


def test_a_chip_ends_its_switch(xray: Xray) -> None:
    xray.open(text=TEXT, ablations=json.dumps(NO_RESIDUALS), run="ablated")
    assert xray.count(".compare .card") == 2
    xray.click(".chip")
    xray.page.until(lambda: xray.count(".chip") == 1)
    xray.until_looked()
    xray.click(".chip")
    xray.page.until(lambda: xray.count(".compare .card") == 1)
    assert xray.script("return document.activeElement.tagName") == "BUTTON", "the focus is not lost with the chip"
    assert "ablations" not in xray.script("return location.hash")


def test_a_head_is_switched_off_and_on_where_its_share_stands(xray: Xray) -> None:
    xray.open(text=TEXT)
    cell = ".grid [data-layer='1'][data-head='2']"
    xray.click(cell)
    compared(xray)
    assert xray.texts(".chip") == ["head 2 of block 1: zeroed ×"]
    answer = inspected(xray.url, TEXT, ablations=[{"kind": "head", "layer": 1, "head": 2, "mode": "zero"}])
    assert xray.losses()[1] == f"{answer['ablated']['loss']:.3f}"
    assert xray.browser.find_element(By.CSS_SELECTOR, cell).get_attribute("aria-pressed") == "true"
    xray.click(cell)
    xray.page.until(lambda: xray.count(".compare .card") == 1)


@pytest.mark.parametrize(
    ("ablation", "cell", "words", "left"),
    [
        (
            {"kind": "mlp", "mode": "zero"},
            "[data-layer='1']:not([data-head])",
            "MLP, all blocks: zeroed ×",
            {"kind": "mlp", "mode": "zero", "layer": 0},
        ),
        (
            {"kind": "head", "layer": 1, "head": None},
            "[data-layer='1'][data-head='2']",
            "all heads of block 1: zeroed ×",
            {"kind": "head", "layer": 1, "head": [0, 1, 3]},
        ),
        (
            {"kind": "head", "layer": [0, 1], "head": 2, "mode": "mean"},
            "[data-layer='0'][data-head='2']",
            "head 2 of blocks 0, 1: its mean over the text ×",
            {"kind": "head", "layer": 1, "head": 2, "mode": "mean"},
        ),
    ],
)
def test_a_part_that_is_off_with_others_is_marked_and_comes_back_alone(
    xray: Xray, ablation: dict[str, Any], cell: str, words: str, left: dict[str, Any]
) -> None:
    xray.open(text=TEXT, ablations=json.dumps([ablation]), run="ablated")
    assert xray.texts(".chip") == [words]
    button = xray.browser.find_element(By.CSS_SELECTOR, f".grid {cell}")
    assert (button.get_attribute("aria-pressed"), button.text) == ("true", "×")
    xray.click(f".grid {cell}")
    xray.page.until(lambda: xray.texts(".chip") != [words])
    xray.until_looked()
    assert xray.browser.find_element(By.CSS_SELECTOR, f".grid {cell}").get_attribute("aria-pressed") == "false"
    answer = inspected(xray.url, TEXT, ablations=[left])
    assert xray.losses()[1] == f"{answer['ablated']['loss']:.3f}"


@pytest.mark.parametrize(
    ("ablation", "words"),
    [
        (
            {"kind": "steer", "name": "blocks.1.hook_mlp_out", "token": " a", "scale": 2},
            "blocks.1.hook_mlp_out steered to “ a” × 2",
        ),
        (
            {"kind": "steer", "name": "blocks.1.hook_resid_pre", "plus": " sea", "minus": " a", "scale": 2},
            "the stream before block 1 steered to “ sea” − “ a” × 2",
        ),
        (
            {"kind": "patch", "name": "blocks.0.attn.hook_z", "prompt": "A sea", "head": 1},
            "head 1 of blocks.0.attn.hook_z from “A sea”",
        ),
        ({"kind": "attention_window", "size": 2, "layer": 1, "head": [0, 1]}, "attention to the last 2, heads 0, 1 of block 1"),
        ({"kind": "layer_norm", "name": "ln_final", "mode": "identity"}, "LN_f left out"),
    ],
)
def test_a_switch_of_a_link_is_said_as_it_is(xray: Xray, ablation: dict[str, Any], words: str) -> None:
    xray.open(text=TEXT, ablations=json.dumps([ablation]))
    assert xray.texts(".chip") == [f"{words} ×"]
    assert xray.error() == ""


def test_a_patch_by_numbers_is_said_as_such(xray: Xray) -> None:
    width = inspected(xray.url, "sea", names=["hook_embed"])["run"]["activations"]["hook_embed"]["shape"][1]
    patch = {"kind": "patch", "name": "hook_embed", "values": [[0.5] * width], "positions": [0]}
    xray.open(text=TEXT, ablations=json.dumps([patch]))
    assert xray.texts(".chip") == ["hook_embed from given numbers ×"]


def test_a_common_switch_is_known_in_every_form_of_the_api(xray: Xray) -> None:
    xray.open(text=TEXT, ablations=json.dumps([{"mode": "zero", "layer": None, "kind": "mlp"}]))
    assert xray.script("return document.querySelector('.common button:nth-child(4)').ariaPressed") == "true"


def test_arrows_move_through_the_grid(xray: Xray) -> None:
    xray.open(text=TEXT)
    xray.script("document.querySelector('.grid button').focus()")
    xray.press(Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    assert xray.script("const { layer, head } = document.activeElement.dataset; return [layer, head]") == ["1", "1"]


def test_the_picture_shows_either_run_with_the_other_as_an_outline(xray: Xray) -> None:
    xray.open(text=TEXT, ablations=json.dumps(NO_RESIDUALS), run="ablated")
    course = "return ['stream', 'other'].map((name) => document.querySelector(`.flow .channel .${name}`).getAttribute('d'))"
    ablated, outline = xray.script(course)
    assert ablated != outline
    xray.click("[data-run=run]")
    xray.drawn()
    whole, other = xray.script(course)
    assert whole != ablated
    assert len(other) > 100
    assert other != whole


@pytest.mark.parametrize(
    ("kind", "fields", "made"),
    [
        ("no_residual", {"branch": "mlp", "layer": 1}, {"branch": "mlp", "layer": 1}),
        ("layer_norm", {"norm": "ln2", "norm-mode": "mean_only"}, {"name": "ln2", "mode": "mean_only"}),
        ("layer_norm", {"norm": "ln_final"}, {"name": "ln_final", "mode": "identity"}),
        ("head", {"block": 1, "head": 3, "mode": "mean"}, {"layer": 1, "head": 3, "mode": "mean"}),
        ("mlp", {"layer": 0}, {"layer": 0, "mode": "zero"}),
        ("attention_window", {"size": 2}, {"size": 2}),
        ("attention_position", {"position": 1}, {"position": 1}),
        ("positions", {"order": "shuffled"}, {"mode": "shuffled"}),
        ("steer", {"token": " a", "scale": 4, "block": 1}, {"name": "blocks.1.hook_resid_pre", "token": " a", "scale": 4}),
        ("patch", {"prompt": "A sea of old men", "block": 1}, {"name": "blocks.1.hook_resid_pre", "prompt": "A sea of old men"}),
    ],
)
def test_each_kind_of_switch_can_be_made_and_is_taken(xray: Xray, kind: str, fields: dict[str, Any], made: dict[str, Any]) -> None:
    xray.open(text=TEXT)
    xray.page.set(**{"xray-kind": kind}, **{f"xray-field-{name}": value for name, value in fields.items()})
    xray.page.set(**{f"xray-field-{name}": value for name, value in fields.items()})
    xray.click(".switch-form button")
    compared(xray)
    assert xray.error() == ""
    answer = inspected(xray.url, TEXT, ablations=[{"kind": kind, **made}])
    assert xray.losses()[1] == f"{answer['ablated']['loss']:.3f}"
    assert xray.count(".chip") == 1
    assert "{" not in xray.texts(".chip")[0]


def test_both_orders_of_layer_norm_are_measured_on_request(xray: Xray) -> None:
    xray.open(text=TEXT)
    xray.click("#xray-order")
    xray.page.until(lambda: xray.count(".order svg") == 1)
    order = inspected(xray.url, TEXT, summaries=["layer_norm_order"])["layer_norm_order"]
    shown = [float(text) for text in xray.texts(".order tbody td")]
    expected = [order[name]["gradient_norms"][layer] for layer in range(2) for name in ("pre", "post")]
    assert shown == pytest.approx(expected, rel=0.01)


# ---- what goes wrong


def test_a_text_over_the_limit_says_so_and_leaves_the_picture(xray: Xray) -> None:
    xray.open(text=TEXT)
    xray.type(" sea" * 1100)
    xray.page.until(lambda: "1024" in xray.error())
    assert xray.count(".flow") == 1
    xray.type("The sea")
    xray.page.until(lambda: xray.error() == "" and xray.count(".tokens [role=option]") < 8)


def test_a_switch_that_a_link_brings_and_the_service_refuses_is_named_and_can_be_ended(xray: Xray) -> None:
    xray.browser.get("about:blank")
    ablations = json.dumps([{"kind": "head", "layer": 7, "head": 0, "mode": "zero"}])
    xray.page.open(f"{xray.url}/#xray?text=sea&ablations={ablations}")
    xray.page.until(lambda: "layer" in xray.error())
    xray.click(".chip")
    xray.until_looked()
    assert xray.error() == ""


def test_inspection_turned_off_says_how_to_turn_it_on(page: Page, start_server: Any) -> None:
    server = start_server(inspect=False)
    xray = Xray(page, server.url)
    page.open(f"{server.url}/#xray")
    page.until(lambda: page.shows("inspect-off") and not page.shows("xray-text"))
    assert "GPT2_INSPECT" in page.text("inspect-off")
    assert xray.error() == ""


def test_a_full_lane_is_waited_for_with_the_seconds_told(xray: Xray) -> None:
    xray.open(text=TEXT)
    xray.script("""
    const real = window.fetch;
    let times = 0;
    window.told = [];
    const status = document.querySelector(".xray .status");
    const parts = { childList: true, subtree: true, characterData: true };
    new MutationObserver(() => told.push(status.textContent)).observe(status, parts);
    const full = () => new Response('{"error": {"message": "full"}}', { status: 429, headers: { "retry-after": "1" } });
    window.fetch = async (url, init) => String(url).includes("inspect") && times++ === 0 ? full() : real(url, init);
    """)
    xray.type("A sea")
    xray.page.until(lambda: any("again in 1 s" in words for words in xray.script("return told")))
    xray.page.until(lambda: xray.count(".tokens [role=option]") < 8)
    assert xray.error() == ""
