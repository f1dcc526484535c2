"""A process that renders one chat template: JSON lines in, JSON lines out. It stands alone: no template finds anything here.

The first line is the template, `{"template": text}`, each further one the variables of a rendering; the answer to each is
`{"text": ...}` or `{"error": ...}`. The parent ends it when an answer is late; it ends itself when the parent is gone.
"""

import contextlib
import json
import math
import resource
import signal
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.utils
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_MEMORY_BYTES = 512 << 20  # of addresses; Python with jinja2 takes 40 MB, and the largest body a few
MAX_CPU_SECONDS = 3  # a rendering; the parent waits for less, but a parent that has died kills nobody
MAX_CHARS = 4 << 20  # of what is rendered: four times the largest body, and a thousand times what any GPT-2 reads
MAX_ERROR_CHARS = 500


class GenerationTag(jinja2.ext.Extension):
    """`{% generation %}` marks what an assistant said, for training; what it holds is rendered as it stands."""

    tags = {"generation"}  # noqa: RUF012  # declared so by jinja2

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


class Namespace(jinja2.utils.Namespace):
    """jinja2's own sets any attribute, those of Python's insides too, which would be a hole in the sandbox."""

    def __init__(*args: Any, **attributes: Any) -> None:  # as jinja2 declares it: `self` may be an attribute
        named = dict(*args[1:], **attributes)
        for name in named:
            _check_name(name)
        jinja2.utils.Namespace.__init__(args[0], named)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if str(name).startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace has no attribute {name!r} in a chat template")


def compile_template(source: str) -> jinja2.Template:
    """With what transformers' `apply_chat_template` offers to a template, and with its whitespace."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": lambda form: datetime.now().strftime(form),
        "namespace": Namespace,
        "dict": lambda *args, **items: dict(*args, **items),  # not the type, which has more to it than a template needs
    }
    return environment.from_string(source)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """jinja2's own writes `<` and `&` for HTML, as no model was trained to read them."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def render(template: jinja2.Template, variables: dict[str, Any]) -> str:
    """Raises whatever the template raises, and ValueError for what cannot be a prompt."""
    parts, num_chars = [], 0
    for part in template.generate(variables):
        num_chars += len(part)
        if num_chars > MAX_CHARS:
            raise ValueError(f"it renders more than {MAX_CHARS} characters")
        parts.append(part)
    text = "".join(parts)
    text.encode()  # a lone surrogate is no text
    return text


def answers(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    template: jinja2.Template | None = None
    for line in lines:
        _limit_cpu()
        try:
            if template is None:
                template = compile_template(json.loads(line)["template"])
                yield {"text": ""}
            else:
                yield {"text": render(template, json.loads(line))}
        except (Exception, RecursionError, MemoryError) as error:
            yield {"error": _described(error)[:MAX_ERROR_CHARS]}


def _described(error: BaseException) -> str:
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"line {error.lineno}: {error.message}"
    if isinstance(error, MemoryError):
        return f"it takes more memory than the {MAX_MEMORY_BYTES >> 20} MiB that there are"
    if isinstance(error, jinja2.TemplateError | ValueError):
        return str(error) or type(error).__name__
    return f"{type(error).__name__}: {error}"


def _limit_memory() -> None:
    with contextlib.suppress(ValueError, OSError):  # macOS knows the limit's name and refuses to set it
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))


def _limit_cpu() -> None:
    """The limit counts from the process's start, so that each rendering moves it on."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = math.ceil(time.process_time()) + MAX_CPU_SECONDS
    with contextlib.suppress(ValueError):  # a lower hard limit that the process was given stays
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def main() -> None:
    sys.stdin.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of a terminal's processes; the parent has yet to drain
    _limit_memory()
    for answer in answers(iter(sys.stdin.readline, "")):
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
