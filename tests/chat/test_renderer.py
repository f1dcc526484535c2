"""The process that renders a chat template: what a template does there, the service survives."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.chat import renderer as module
from app.chat.renderer import COMMAND, Renderer
from app.errors import NotReady, TemplateFailed

Make = Callable[[str], Renderer]
SAID = [{"role": "user", "content": "Héllo 😀"}, {"role": "assistant", "content": "<b> & 'c'"}]


@pytest.fixture
def template() -> Iterator[Make]:
    renderers: list[Renderer] = []

    def make(source: str) -> Renderer:
        renderers.append(Renderer(source))
        return renderers[-1]

    yield make
    for renderer in renderers:
        renderer.close()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_the_process_inherits_no_secret_of_the_service(template: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GPT2_API_KEYS", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "canary-in-the-environment")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    renderer = template("a text")
    assert renderer.render_now({}) == "a text"
    assert renderer._process is not None
    environment = Path(f"/proc/{renderer._process.pid}/environ").read_bytes()
    assert b"TZ=Asia/Tokyo" in environment
    assert b"canary" not in environment


def test_a_template_sees_its_variables_and_nothing_is_escaped(template: Make) -> None:
    renderer = template("{{ bos_token }}{% for m in messages %}{{ m.role }}={{ m['content'] }};{% endfor %}{{ missing }}")
    rendered = renderer.render_now({"messages": SAID, "bos_token": "<s>"})
    assert rendered == "<s>user=Héllo 😀;assistant=<b> & 'c';"


@pytest.mark.parametrize(
    ("source", "rendered"),
    [
        ("{% for m in messages %}\n  {% if loop.first %}{% continue %}{% endif %}\n{{ m.role }}{% endfor %}", "assistant"),
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "Héllo 😀"}'),
        ("{{ messages[1].content | tojson(indent=1) }}", "\"<b> & 'c'\""),
        ("{% generation %}{{ messages[0].role }}{% endgeneration %}!", "user!"),
        ("{% set ns = namespace(seen=0) %}{% for m in messages %}{% set ns.seen = ns.seen + 1 %}{% endfor %}{{ ns.seen }}", "2"),
        ("{{ dict(a=1).a }}", "1"),
        ("{{ strftime_now('%%') }}", "%"),
    ],
)
def test_what_transformers_offers_to_a_template_is_there(template: Make, source: str, rendered: str) -> None:
    pytest.importorskip("transformers")
    from transformers.utils.chat_template_utils import _compile_jinja_template

    assert template(source).render_now({"messages": SAID}) == rendered
    assert _compile_jinja_template(source).render(messages=SAID) == rendered


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('Only one system message is allowed') }}", "Only one system message is allowed"),
        ("{{ messages[5].role.x }}", "'list object has no element 5'|has no element 5"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{{ messages + 1 }}", "TypeError"),
        ("{{ ''.__class__.__mro__ }}", "unsafe|__class__"),
        ("{{ messages.append(1) }}", "not safely callable|unsafe|append"),
        ("{% set ns = namespace(__class__=1) %}", "__class__"),
        ("{{ cycler.__init__.__globals__ }}", "unsafe|__init__"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ '\\ud800' }}", "surrogates not allowed"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ 'x' * (2 ** 40) }}", "more memory than"),
        ("{{ 'x' * (2 ** 23) }}", "more than 4194304 characters"),
        ("{% for i in range(100000) %}{{ 'x' * 100 }}{% endfor %}", "more than 4194304 characters"),
        ("{{ range(1000000) | list }}", "OverflowError"),
        ("", "no text"),
        ("{# nothing #}", "no text"),
    ],
)
def test_a_template_that_fails_says_why_and_lives(template: Make, source: str, reason: str) -> None:
    renderer = template("{% if hostile %}" + source + "{% else %}well{% endif %}")
    assert renderer.render_now({"messages": SAID}) == "well"
    process = renderer._process
    with pytest.raises(TemplateFailed, match=reason):
        renderer.render_now({"messages": SAID, "hostile": True, "nine": 9})
    assert renderer.render_now({"messages": SAID}) == "well"
    assert renderer._process is process


@pytest.mark.parametrize("source", ["{% for user in %}", "{{ messages | unknown_filter }}", "{% generation %}"])
def test_a_template_that_does_not_compile_says_in_which_line(template: Make, source: str) -> None:
    with pytest.raises(TemplateFailed, match="line 2: "):
        template("\n" + source).render_now({})


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}",
        "{{ nine ** (nine ** nine) }}",  # within one call of C, which no signal handler of Python's would interrupt
    ],
)
def test_a_template_that_goes_on_for_ever_is_ended_and_the_next_rendering_works(
    template: Make, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    renderer = template("{% if hostile %}" + source + "{% else %}well{% endif %}")
    assert renderer.render_now({}) == "well"
    monkeypatch.setattr(module, "RENDER_SECONDS", 0.3)
    with pytest.raises(TemplateFailed, match=r"longer than 0\.3 s"):
        renderer.render_now({"hostile": True, "nine": 9})
    monkeypatch.undo()
    assert renderer.render_now({}) == "well"


def test_a_process_that_died_between_two_renderings_is_replaced(template: Make) -> None:
    renderer = template("{{ word }}")
    assert renderer.render_now({"word": "one"}) == "one"
    process = renderer._process
    assert process is not None
    os.kill(process.pid, signal.SIGTERM)
    process.wait()
    assert renderer.render_now({"word": "two"}) == "two"


def test_an_interrupt_from_the_terminal_is_the_parents_affair(template: Make) -> None:
    renderer = template("{{ word }}")
    assert renderer.render_now({"word": "one"}) == "one"
    process = renderer._process
    assert process is not None
    os.kill(process.pid, signal.SIGINT)
    assert renderer.render_now({"word": "two"}) == "two"
    assert renderer._process is process


def test_conversations_rendered_at_once_get_their_own_text(template: Make) -> None:
    renderer = template("{{ word }}")

    async def render_all() -> list[str]:
        return await asyncio.gather(*(renderer.render({"word": str(i) * 1000}) for i in range(100)))

    assert asyncio.run(render_all()) == [str(i) * 1000 for i in range(100)]


def test_who_waits_too_long_for_others_is_told_to_come_again(template: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = template("{% if hostile %}{{ nine ** (nine ** nine) }}{% else %}well{% endif %}")
    assert renderer.render_now({}) == "well"
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.2)
    monkeypatch.setattr(module, "RENDER_SECONDS", 1.0)

    async def render_both() -> list[object]:
        return await asyncio.gather(renderer.render({"hostile": True, "nine": 9}), renderer.render({}), return_exceptions=True)

    refused = asyncio.run(render_both())
    assert [type(error) for error in refused] == [NotReady, NotReady]


def test_the_process_ends_with_its_parent() -> None:
    """The parent's end of the pipe closes, however the parent ended."""
    with subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b'{"template": "x"}\n')
        process.stdin.flush()
        assert process.stdout.readline()
        process.stdin.close()
        assert process.wait(60) == 0


def test_a_rendering_without_a_parent_is_ended_by_its_own_limit() -> None:
    lines = b'{"template": "{{ nine ** (nine ** nine) }}"}\n{"nine": 9}\n'
    ended = subprocess.run(COMMAND, input=lines, capture_output=True, timeout=60)
    assert ended.returncode == -signal.SIGXCPU


def test_the_service_does_not_load_jinja2_into_its_own_process() -> None:
    program = "import sys, app.chat.conversation, app.main; sys.exit('jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=120).returncode == 0
