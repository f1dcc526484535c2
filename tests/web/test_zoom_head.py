"""The X-ray's third level: the heads of a block, and one of them number by number, held against the service's own."""

import json
import math

import pytest
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from tests.web.zoom_page import WINDOW, Zoom, norm, number, shown


def test_every_head_is_a_small_map_with_the_scores_of_the_api(zoom: Zoom) -> None:
    zoom.open(layer=1)
    scores = zoom.inspect(summaries=["attention"])["run"]["summaries"]["attention"]
    cards = zoom.all(".zoom-head")
    assert len(cards) == 4
    for head, card in enumerate(cards):
        told = [line.text for line in card.find_elements(By.CSS_SELECTOR, ".zoom-summary span:nth-child(2n)")]
        expected = [scores[name][1][head] for name in ("previous", "first", "induction")]
        assert [float(text.removesuffix(" %")) for text in told] == [pytest.approx(100 * share, abs=0.6) for share in expected]


def test_a_map_is_painted_below_its_diagonal_alone_and_darker_where_the_weight_is_larger(zoom: Zoom) -> None:
    zoom.open(layer=1, head=2)
    pattern = zoom.activations("blocks.1.attn.hook_pattern")["blocks.1.attn.hook_pattern"][2]
    script = """const canvas = document.querySelector(".zoom-plane canvas");
      return [canvas.width, [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]]"""
    size, data = zoom.page.browser.execute_script(script)
    assert size == len(pattern)
    pixels = [data[i : i + 4] for i in range(0, len(data), 4)]
    alpha = [[pixels[query * size + key][3] for key in range(size)] for query in range(size)]
    assert alpha == [[255 if key <= query else 0 for key in range(size)] for query in range(size)]
    visible = [(pattern[query][key], pixels[query * size + key][0]) for query in range(size) for key in range(query + 1)]
    for (weight, red), (larger, redder) in zip(sorted(visible), sorted(visible)[1:], strict=False):
        assert redder <= red or math.sqrt(larger) - math.sqrt(weight) < 0.01  # on paper the accent is the darker one


def test_arrows_choose_a_head_and_the_large_map_follows(zoom: Zoom) -> None:
    zoom.open(layer=0)
    assert zoom.one(".zoom-pairs").get_attribute("aria-label").startswith("Attention of head 0:")
    zoom.one(".zoom-head[aria-checked=true]").send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert zoom.one(".zoom-pairs").get_attribute("aria-label").startswith("Attention of head 2:")
    assert zoom.page.browser.switch_to.active_element.text.startswith("Head 2")


# ---- a pair of a head


def test_the_numbers_of_every_pair_are_those_of_the_api(zoom: Zoom) -> None:
    zoom.open("head", layer=1, head=2, position=5, key=3)
    names = [f"blocks.1.attn.{name}" for name in ("hook_q", "hook_k", "hook_attn_scores", "hook_pattern")]
    q, k, scores, pattern = zoom.activations(*names).values()
    for _ in range(3):  # up from query to query, with the arrow keys
        query, _key = zoom.pair
        row = zoom.row()
        for key, (product, scaled, score, weight) in enumerate(row):
            own = sum(a * b for a, b in zip(q[query][2], k[key][2], strict=True))
            assert product == shown(own)
            assert scaled == shown(own / math.sqrt(25))
            assert score == shown(scores[2][query][key])
            assert weight == shown(pattern[2][query][key])
            if key <= query:
                assert scaled == pytest.approx(score, abs=1.1e-3)
        powers = [math.exp(score) for _, _, score, _ in row]
        assert [weight for *_, weight in row] == [pytest.approx(power / sum(powers), abs=2e-3) for power in powers]
        zoom.one(".zoom-pairs").send_keys(Keys.ARROW_UP)


def test_the_steps_of_a_pair_are_told_in_its_own_numbers(zoom: Zoom) -> None:
    zoom.open("head", layer=1, head=2, position=6, key=4)
    product, scaled, score, weight = zoom.row()[4]
    assert number(zoom.text(".zoom-panel .zoom-numbers").removeprefix("q · k = ")) == product
    lit = []
    for step in range(1, 7):
        zoom.step(step)
        lit.append({part.get_attribute("data-part") for part in zoom.all(".zoom-computation .zoom-lit")})
        ends = zoom.text(".zoom-panel").split(" = ")[-1]
        if step == 2:
            assert ends.startswith(f"{scaled:.3f}".replace("-", "−"))
        if step == 3:
            assert ends.startswith(f"{score:.3f}".replace("-", "−"))
        if step == 4:
            assert number(ends.split("The")[0]) == pytest.approx(weight, abs=1e-3)
    assert lit == [{"dot"}, {"scale"}, {"mask"}, {"softmax"}, {"values"}, {"project"}]


def test_a_later_key_has_a_product_and_is_masked(zoom: Zoom) -> None:
    zoom.open("head", layer=0, head=1, position=2, key=5)
    product, scaled, score, weight = zoom.row()[5]
    assert math.isfinite(product)
    assert scaled == pytest.approx(product / 5, abs=1e-3)
    assert (score, weight) == (-math.inf, 0)
    assert "masked" in zoom.text("#zoom-pair")
    zoom.step(3)
    assert zoom.text(".zoom-panel .zoom-numbers").endswith("→ −∞")
    assert zoom.text(".zoom-panel .zoom-note").startswith("Key 5 comes after query 2")


def test_arrows_step_through_the_computation(zoom: Zoom) -> None:
    zoom.open("head", layer=0, head=1)
    zoom.one(".zoom-step[aria-checked=true]").send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert zoom.page.browser.switch_to.active_element.text.startswith("2")
    assert zoom.text(".zoom-computation > p").startswith("The product is divided")


def test_a_pair_under_the_mouse_is_shown_while_it_is_there_and_a_click_keeps_it(zoom: Zoom) -> None:
    zoom.open(layer=1, head=2, position=6, key=4)
    assert zoom.pair == (6, 4)
    plane = zoom.one(".zoom-plane")
    cell = plane.size["width"] / len(zoom.inspect()["tokens"])
    mouse = ActionChains(zoom.page.browser, duration=0)

    def offset(query: int, key: int) -> tuple[int, int]:
        return round((key + 0.5) * cell - plane.size["width"] / 2), round((query + 0.5) * cell - plane.size["height"] / 2)

    mouse.move_to_element_with_offset(plane, *offset(3, 1)).perform()
    zoom.page.until(lambda: zoom.pair == (3, 1))
    mouse.move_to_element(zoom.one(".zoom-title")).perform()
    zoom.page.until(lambda: zoom.pair == (6, 4))
    mouse.move_to_element_with_offset(plane, *offset(3, 1)).click().move_to_element(zoom.one(".zoom-title")).perform()
    zoom.page.until(lambda: zoom.pair == (3, 1))
    assert zoom.one(".zoom-token[aria-checked=true]").text.startswith("3")


def test_lists_choose_a_pair_without_a_mouse(zoom: Zoom) -> None:
    zoom.open(layer=1, position=6, key=4)
    query, key = zoom.all(".zoom-side select")
    Select(query).select_by_index(5)
    Select(key).select_by_index(0)
    assert zoom.pair == (5, 0)
    assert zoom.text("#zoom-pair").startswith("5 ")


def test_the_weighted_values_sum_to_z_and_c_proj_adds_what_the_head_is_worth(zoom: Zoom) -> None:
    zoom.open("head", layer=1, head=2, position=6, key=4)
    z = zoom.activations("blocks.1.attn.hook_z")["blocks.1.attn.hook_z"][6][2]
    zoom.step(5)
    assert number(zoom.text(".zoom-total .zoom-value").removeprefix("‖z‖ ")) == shown(norm(z))
    assert "The sum over all is z." in zoom.text(".zoom-panel .zoom-note")
    zoom.step(6)
    answer = zoom.inspect("blocks.1.hook_attn_out", ablations=[{"kind": "head", "layer": 1, "head": 2, "mode": "zero"}])
    whole, without = (answer[run]["activations"]["blocks.1.hook_attn_out"]["data"][6] for run in ("run", "ablated"))
    zoom.page.until(lambda: zoom.text(".zoom-panel .zoom-note").startswith("This head adds"))
    told = [number(value.text) for value in zoom.all(".zoom-norms dd:nth-of-type(odd)")]
    own = norm([a - b for a, b in zip(whole, without, strict=True)])
    assert told[1:] == [shown(norm(whole)), shown(own), shown(norm(z))]


def test_the_numbers_of_the_strips_stand_in_a_table(zoom: Zoom) -> None:
    zoom.open("head", layer=1, head=2, position=6, key=4)
    zoom.one(".zoom-panel summary").click()
    zoom.page.until(lambda: zoom.all(".zoom-vectors tbody tr"))
    script = "return [...document.querySelectorAll('.zoom-vectors tbody tr')].map((row) => row.cells[1].textContent)"
    q = zoom.activations("blocks.1.attn.hook_q")["blocks.1.attn.hook_q"][6][2]
    assert [number(text) for text in zoom.page.browser.execute_script(script)] == [shown(x) for x in q]


# ---- ablations


def test_an_ablated_block_is_shown_and_the_whole_one_is_a_click_away(zoom: Zoom) -> None:
    zoom.open("head", layer=1, head=2, position=6, key=2, run="ablated", ablations=json.dumps([WINDOW]))
    ablated, whole = (
        zoom.activations("blocks.1.attn.hook_attn_scores", run=run, ablations=[WINDOW])["blocks.1.attn.hook_attn_scores"][2][6]
        for run in ("ablated", "run")
    )
    assert [score for _, _, score, _ in zoom.row()] == [shown(score) for score in ablated]
    zoom.step(3)
    assert zoom.text(".zoom-panel .zoom-note").startswith("An ablation masks key 2")
    zoom.one(".zoom [aria-pressed=true]").click()
    zoom.page.until(lambda: zoom.row()[2][2] == shown(whole[2]))
    assert [score for _, _, score, _ in zoom.row()] == [shown(score) for score in whole]


def test_a_step_that_an_ablation_overrides_says_so(zoom: Zoom) -> None:
    ablation = {"kind": "head", "layer": 1, "head": 2, "mode": "zero"}
    zoom.open("head", layer=1, head=2, position=6, key=2, step=4, run="ablated", ablations=json.dumps([ablation]))
    assert zoom.text(".zoom-total .zoom-value") == "‖z‖ 0.000"
    assert zoom.text(".zoom-panel .zoom-note").startswith("An ablation has put something else here")
