"""Messages that are plain text whatever stands in them, in a prompt whose template writes special tokens as text.

The names of special and added tokens in a message are broken by a mark before the template sees them. Those that are whole in what
it renders are then its own, and all else is read as plain text, the marks taken out.
"""

import re

from app.chat.turns import AS_WRITTEN, added_in
from app.errors import InvalidRequest
from model.tokenizer import PLAIN_TEXT, Tokenizer


def break_names(tokenizer: Tokenizer, text: str, mark: str) -> str:
    """A message's text without any name of a token; raises InvalidRequest where one is found that cannot be broken."""
    for token_id in added_in(tokenizer, text):
        name = tokenizer.name(token_id)
        text = text.replace(name, name[:1] + mark + name[1:])
    if tokenizer.encode(text, AS_WRITTEN) != tokenizer.encode(text, PLAIN_TEXT):
        raise InvalidRequest("parse_special: a message has a special token in a spelling that cannot be told from its text")
    return text


def read_broken(tokenizer: Tokenizer, text: str, mark: str) -> tuple[int, ...]:
    """The tokens of what a template has made of such messages."""
    names = {tokenizer.name(token_id) for token_id in added_in(tokenizer, text)}
    pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    ids: list[int] = []
    for part in re.split(f"({pattern})", text) if names else [text]:
        ids += tokenizer.encode(part, AS_WRITTEN) if part in names else tokenizer.encode(part.replace(mark, ""), PLAIN_TEXT)
    return tuple(ids)
