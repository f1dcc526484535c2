"""Where a chat template's replies begin and end, found from the template itself. Knows no process, no engine and no HTTP."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from model.tokenizer import PLAIN_TEXT, Reading, Tokenizer

AS_WRITTEN = Reading(parse_special=True, add_special_tokens=False)  # a template writes its special tokens itself, as text

# Words that no template changes, and that stand nowhere else.
ASKED, REPLIED, ASKED_AGAIN = "asked0first", "replied0then", "asked0again"

Render = Callable[[list[Mapping[str, str]], bool], str]  # messages, and whether an assistant's turn is to be opened


@dataclass(frozen=True, slots=True)
class Turns:
    """What ends a reply besides the end tokens, and `lead`, the whitespace that the model writes before it.

    A template that ends in `Assistant:` and writes `Assistant: words` has a space for its lead: it belongs to the template, which
    puts it there again when the reply comes back in the next request, and not to the words.
    """

    lead: str = ""
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()


def find_turns(render: Render, tokenizer: Tokenizer) -> Turns:
    """Look at a conversation of three known messages; a template that does not show them has end tokens alone.

    The gap is what stands between an assistant's words and the next user's. Its first special or added token ends a reply, and so
    does the text before that token: what stands at a conversation's end too, as `### End`, if that is more than whitespace; else
    all of it, as `\\nUser:`. Whitespace alone is an end only if it has a line end, and if there is no such token.
    """
    asked, replied = {"role": "user", "content": ASKED}, {"role": "assistant", "content": REPLIED}
    opened, ended = render([asked], True), render([asked, replied], False)
    both = render([asked, replied, {"role": "user", "content": ASKED_AGAIN}], True)
    gap, tail = _between(both, REPLIED, ASKED_AGAIN), ended.rpartition(REPLIED)[2]
    lead = _between(ended, opened, REPLIED) if ended.startswith(opened) else ""
    token_id = next(iter(added_in(tokenizer, gap)), None)
    text = gap if token_id is None else gap.partition(tokenizer.name(token_id))[0]
    end = tail.rstrip()
    stop = end if end and text.startswith(end) else text.rstrip()
    if token_id is None and not stop and "\n" in text:
        stop = text
    return Turns("" if lead.strip() else lead, (stop,) if stop else (), frozenset() if token_id is None else frozenset({token_id}))


def added_in(tokenizer: Tokenizer, text: str) -> list[int]:
    """The special and added tokens whose names stand in a text, in order; that of unknown characters stands for them alone."""
    ids = dict.fromkeys(tokenizer.encode(text, AS_WRITTEN))
    return [token_id for token_id in ids if tokenizer.name(token_id) in text and _is_added(tokenizer, token_id)]


def _is_added(tokenizer: Tokenizer, token_id: int) -> bool:
    """Whether a token is read whole where its name stands in a text, and is not what the name's own letters make."""
    name = tokenizer.name(token_id)
    return tokenizer.encode(name, AS_WRITTEN) == [token_id] != tokenizer.encode(name, PLAIN_TEXT)


def _between(text: str, first: str, second: str) -> str:
    """What stands between two texts that follow each other once, or nothing."""
    _, found, rest = text.partition(first)
    between, also_found, _ = rest.partition(second)
    return between if found and also_found else ""


@dataclass(slots=True)
class Lead:
    """Takes a lead off the front of a text that comes in pieces: the pieces add up to `text.removeprefix(lead)`."""

    lead: str
    _held: str = ""

    def feed(self, piece: str, is_last: bool) -> str:
        """What may be shown now."""
        if not self.lead:
            return piece
        self._held += piece
        if len(self._held) < len(self.lead) and self.lead.startswith(self._held) and not is_last:
            return ""
        shown, self.lead, self._held = self._held.removeprefix(self.lead), "", ""
        return shown
