"""Looking inside on the page: the flow, the choice of a place in it, its numbers, links and exports."""

import json
import math
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By

from tests.web.browsing import Page, emulated
from tests.web.xray_page import TEXT, WATCH, Xray, inspected

SAVED = """
URL.createObjectURL = (blob) => { window.saved = blob; return "#"; };
HTMLAnchorElement.prototype.click = function () { window.savedName = this.download; };
"""


@pytest.fixture
def xray(page: Page, server: Any) -> Xray:
    return Xray(page, server.url)


# ---- a text and its picture


def test_an_example_is_there_at_once(xray: Xray) -> None:
    xray.open()
    assert xray.script("return document.getElementById('xray-text').value").startswith("Once upon a time")
    assert xray.count(".tokens [role=option]") > 10
    assert xray.count(".flow .block") == 2
    assert xray.position() == xray.count(".tokens [role=option]") - 1, "the end of the text, where its continuation begins"


def test_a_text_is_looked_at_when_its_writer_pauses_and_at_once_with_ctrl_enter(xray: Xray) -> None:
    xray.open(text=TEXT)
    for text, send in [("A sea of", []), ("The end of the sea", [Keys.CONTROL, Keys.ENTER])]:
        xray.type(text)
        if send:
            xray.page.press(*send, id="xray-text")
        tokens = [token["text"].replace(" ", "·") for token in inspected(xray.url, text)["tokens"]]
        xray.page.until(lambda: xray.texts(".tokens .token-text") == tokens)  # noqa: B023  # called at once
        xray.until_looked()
    assert xray.error() == ""


def test_the_table_beside_the_picture_has_the_numbers_of_the_answer(xray: Xray) -> None:
    xray.open(text=TEXT, position=3)
    xray.click(".fold summary")
    xray.page.until(lambda: xray.texts(".fold tbody tr:first-child td")[2])
    summaries = inspected(xray.url, TEXT)["run"]["summaries"]
    norms, lens = summaries["norms"], summaries["lens"]
    for layer, row in enumerate(xray.browser.find_elements(By.CSS_SELECTOR, ".fold tbody tr")):
        cells = [cell.text for cell in row.find_elements(By.TAG_NAME, "td")]
        told = [cells[i] for i in (1, 2, 4, 7, 9)]
        deviation = summaries["layer_norm"]["ln1"]["deviation"][layer][3]
        expected = [norms[name][layer][3] for name in ("attn_out", "resid_mid", "mlp_out", "resid_post")]
        assert told == [f"{deviation:.3f}", *(f"{norm:.2f}" for norm in expected)]
        assert cells[12] == str(lens["rank"][layer + 1][3] + 1)


def test_a_wider_river_is_a_larger_norm(xray: Xray) -> None:
    xray.open(text=TEXT, position=4)
    norms = inspected(xray.url, TEXT)["run"]["summaries"]["norms"]
    heights = "return [...document.querySelectorAll(arguments[0])].map((path) => path.getBBox().height)"
    (stream,) = xray.script(heights, ".flow .channel .stream")
    boxes = xray.script("return [...document.querySelectorAll('.flow .mlp-box')].map((box) => Number(box.getAttribute('height')))")
    largest = max(max(norms[name][layer][4] for layer in range(2)) for name in ("resid_pre", "resid_mid", "resid_post"))
    scale = stream / largest
    expected = [scale * norms["mlp_out"][layer][4] for layer in range(2)]
    assert [box - 6 for box in boxes] == pytest.approx(expected, abs=0.5)


def test_surprise_and_the_precision_that_serves_stand_beside_each_token(xray: Xray) -> None:
    xray.open(text=TEXT)
    answer = inspected(xray.url, TEXT)
    surprises = [f"{-logprob:.1f}" for logprob in answer["run"]["logprobs"][1:]]
    assert xray.texts(".tokens .token-surprise") == ["·", *surprises]
    second = xray.texts(".tokens [role=option] .visually-hidden")[1]
    assert f"As served: {-answer['served']['logprobs'][1]:.2f}" in second
    (words,) = xray.texts(".tokens-part .hint")
    assert f"{answer['served']['max_difference']:.4f} at most" in words


# ---- moving through it


def test_scrubbing_asks_nothing_and_rebuilds_nothing(xray: Xray) -> None:
    xray.open(text=" sea" * 64)
    xray.script(WATCH)
    picture = xray.browser.find_element(By.CSS_SELECTOR, ".flow")
    width, height = picture.size["width"], picture.size["height"]
    for share in range(-4, 5):
        ActionChains(xray.browser).move_to_element_with_offset(
            picture, int(share * width / 14), int(share * height / 40 - height / 4)
        ).perform()
        xray.drawn()
    watched = xray.script("return watched")
    assert watched["changed"] > 100, "the picture follows"
    assert (watched["added"], watched["requests"]) == (0, 0)


def test_arrows_move_over_blocks_and_positions_and_keep_the_focus_in_the_picture(xray: Xray) -> None:
    xray.open(text=TEXT, position=3)
    xray.focus_picture()
    xray.press(Keys.ARROW_RIGHT)
    assert (xray.layer(), xray.position()) == (1, 3)
    xray.press(Keys.ARROW_UP)
    assert (xray.layer(), xray.position()) == (1, 2)
    assert xray.script("return document.activeElement.dataset.layer") == "1"
    assert "position 2" in xray.page.text("xray-reading")
    xray.press(Keys.HOME)
    assert xray.layer() == 0


def test_tokens_are_a_list_in_which_arrows_choose(xray: Xray) -> None:
    xray.open(text=TEXT, position=1)
    xray.script("document.querySelector('.tokens [aria-selected=true]').focus()")
    xray.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert xray.position() == 3
    xray.press(Keys.HOME)
    assert xray.position() == 0


def test_sliders_serve_a_finger(xray: Xray) -> None:
    xray.open(text=TEXT)
    xray.page.set(xray_position=2, xray_layer=1)
    xray.drawn()
    assert (xray.layer(), xray.position()) == (1, 2)


def test_the_lens_shows_what_each_layer_would_say_and_a_cell_is_a_place(xray: Xray) -> None:
    xray.open(text=TEXT)
    lens = inspected(xray.url, TEXT)["run"]["summaries"]["lens"]
    rows = xray.browser.find_elements(By.CSS_SELECTOR, ".lens tbody tr")
    assert len(rows) == len(lens["top"]) == 3
    for row, tops in zip(rows, reversed(lens["top"]), strict=True):
        shown = [cell.get_attribute("title").split(" ")[0] for cell in row.find_elements(By.TAG_NAME, "td")]
        assert shown[1] == tops[1][0]["text"].replace(" ", "·").replace("\n", "⏎")
    xray.script('document.querySelector(\'.lens td[data-row="2"][data-position="2"]\').click()')
    xray.drawn()
    assert (xray.layer(), xray.position()) == (1, 2)


def test_temperature_and_top_k_act_on_the_real_distribution(xray: Xray) -> None:
    xray.open(text=TEXT)
    known = inspected(xray.url, TEXT, top_n=20)["run"]["next"]
    drawn = """
    const rows = [...document.querySelectorAll(".chances-part tbody tr")].filter((row) => !row.hidden);
    return rows.map((row) => parseFloat(row.cells[2].textContent));
    """
    assert xray.script(drawn)[:3] == pytest.approx([100 * one["probability"] for one in known[:3]], abs=0.5)
    xray.page.set(xray_top_k=3)
    xray.page.set(xray_temperature=0.5)
    xray.drawn()
    weights = [math.exp(one["logprob"] / 0.5) for one in known[:3]]
    assert xray.script(drawn)[:4] == pytest.approx([*(100 * weight / sum(weights) for weight in weights), 0], abs=0.5)
    xray.page.set(xray_temperature=0)
    xray.drawn()
    assert xray.script(drawn)[:2] == [100, 0]


def test_another_position_is_explained_on_request(xray: Xray) -> None:
    xray.open(text=TEXT, position=2)
    xray.click("#xray-explain")
    xray.page.until(lambda: "after position 2" in "".join(xray.texts(".attribution-part .reading")))
    found = inspected(xray.url, TEXT, target_position=2)["run"]["summaries"]["attribution"]
    numbers = xray.texts(".grid tbody tr:first-child button")
    assert numbers == [f"{value:+.2f}".replace("-", "−") for value in [*found["heads"][0], found["mlps"][0]]]


# ---- the levels


def test_enter_opens_the_block_and_escape_leads_back(xray: Xray) -> None:
    xray.open(text=TEXT)
    xray.focus_picture()
    xray.press(Keys.ARROW_RIGHT, Keys.ENTER)
    xray.page.until(lambda: xray.count(".zoom-level .zoom") == 1)
    assert xray.texts(".crumbs li") == ["The whole flow", "Block 1"]
    xray.press(Keys.ESCAPE)
    assert xray.texts(".crumbs li") == ["The whole flow"]
    assert xray.count(".zoom-level .zoom") == 0
    assert xray.script("return document.activeElement.dataset.layer") == "1", "back where it came from"


def test_a_click_on_a_block_opens_it_and_the_breadcrumb_leads_back(xray: Xray) -> None:
    xray.open(text=TEXT)
    ActionChains(xray.browser).move_to_element(xray.browser.find_element(By.CSS_SELECTOR, ".flow .block .number")).click().perform()
    xray.page.until(lambda: xray.count(".zoom-level .zoom") == 1)
    assert xray.texts(".crumbs li")[-1] == "Block 0"
    xray.click(".crumbs [data-level=flow]")
    assert xray.browser.find_element(By.CSS_SELECTOR, ".flow").is_displayed()


# ---- what can be taken along


def test_the_address_reproduces_the_view(xray: Xray) -> None:
    xray.open(text=TEXT)
    xray.page.set(xray_position=2, xray_layer=1, xray_top_k=4)
    xray.page.set(xray_temperature=0.7)
    xray.click(".common button:nth-child(3)")
    xray.page.until(lambda: xray.count(".compare .card") == 2)
    xray.until_looked()
    xray.click("#xray-link")
    link = xray.script("return location.href")
    before = [xray.script("return document.querySelector('.figure').innerHTML"), xray.texts(".chip"), xray.losses()]
    xray.browser.get("about:blank")
    xray.page.open(link)
    xray.until_looked()
    assert (xray.layer(), xray.position()) == (1, 2)
    assert [xray.script("return document.querySelector('.figure').innerHTML"), xray.texts(".chip"), xray.losses()] == before
    assert xray.page.text("xray-temperature") == ""  # a slider; its value stands beside it
    assert xray.script("return document.getElementById('xray-temperature').value") == "0.7"


def test_the_picture_is_saved_as_svg_that_stands_alone(xray: Xray) -> None:
    xray.open(text=TEXT)
    xray.script(SAVED)
    xray.click("#xray-svg")
    source = xray.browser.execute_async_script("saved.text().then(arguments[0])")
    assert xray.script("return savedName") == "gpt2-xray.svg"
    root = ET.fromstring(source)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert float(root.get("width", "0")) > 1000
    elements = list(root.iter())
    assert len(elements) > 50
    assert not any(element.get("class") or element.get("style") for element in elements), "no style sheet is with it"
    (stream,) = [element for element in elements if element.get("data-name") == "stream"]
    assert stream.get("fill", "").startswith(("rgb", "color"))


def test_the_answer_is_saved_as_json(xray: Xray) -> None:
    xray.open(text=TEXT)
    xray.script(SAVED)
    xray.click("#xray-json")
    answer = json.loads(xray.browser.execute_async_script("saved.text().then(arguments[0])"))
    assert answer["run"]["summaries"]["norms"] == inspected(xray.url, TEXT)["run"]["summaries"]["norms"]


# ---- for everybody


def test_a_reader_of_chinese_reads_chinese(xray: Xray, chinese: None) -> None:
    xray.open(text=TEXT)
    assert "残差流" in "".join(xray.texts(".flow .name"))
    xray.click("[data-language=en]")
    assert "residual stream" in "".join(xray.texts(".flow .name"))
    assert xray.count(".flow") == 1
    assert xray.losses(), "the answer is shown again without a question"
    xray.script("localStorage.clear()")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_no_barrier(xray: Xray, violations: Any, width: int, scheme: Any) -> None:
    with emulated(xray.browser, width, scheme):
        xray.open(text=TEXT, ablations=json.dumps([{"kind": "positions", "mode": "none"}]), run="ablated")
        xray.click(".fold summary")
        assert violations(xray.browser) == []
        assert xray.script("return document.documentElement.scrollWidth <= innerWidth"), "no sideways scrolling"


def test_a_finger_hits_every_control_on_a_phone(xray: Xray) -> None:
    with emulated(xray.browser, 390):
        xray.open(text=TEXT, ablations=json.dumps([{"kind": "positions", "mode": "none"}]))
        small = xray.script("""
        const controls = [...document.querySelectorAll(".xray :is(button, select, input, summary, [role=option])")];
        const seen = controls.filter((node) => node.checkVisibility());
        return seen.filter((node) => node.getBoundingClientRect().height < 44).map((node) => node.outerHTML.slice(0, 120));
        """)
        assert small == []
