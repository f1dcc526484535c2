"""A directory's tokenizer gives the ids that `transformers` gives, whatever its files say; what it cannot is refused by name."""

import json
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from model.bpe import BPETokenizer
from model.checkpoint import CheckpointError, load_tokenizer, save_tokenizer
from model.library_tokenizer import LibraryByteTokenizer, WordPieceTokenizer
from model.tokenizer import PLAIN_TEXT, Reading, Tokenizer, TokenizerError
from model.tokenizer_files import read_tokenizer
from tests.model.tokenizer_directories import (
    AS_IT_IS,
    BERT,
    BYTE_LEVEL,
    DIALOGUE,
    END_OF_TEXT,
    GPT2_FILES,
    KINDS,
    USER_AND_BOT,
    VOCABULARY,
    WORD_FILES,
    WORDS,
    Files,
    added,
    bpe_file,
    word_piece_file,
    write_directory,
)

PIECES = [
    *("<|user|>", "<|bot|>", "<|endoftext|>", "<|use", "<|x|>", "<pad>", "[PAD]", "[CLS]", "[UNK]", "[BOS]", "<mask>"),
    *("Hello", "HELLO", "hello world", " world", "world<|", "wörd", "wörder", "WÖRD", " word ", "plays", "abab", "Café", "don't"),
    *("é", "你好世界", "，", "。", "🙂", "  \n", "\t", "   ", "'s 12", "(", ")"),
]
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(st.characters(exclude_categories=["Cs"]), max_size=3), max_size=10).map("".join)
KIND = pytest.mark.parametrize("kind", KINDS)

Both = tuple[Tokenizer, PreTrainedTokenizerBase]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Both]:
    """Of each kind of directory our tokenizer and theirs."""
    folder = tmp_path_factory.mktemp("tokenizers")
    directories = {kind: write_directory(folder / str(i), files()) for i, (kind, files) in enumerate(KINDS.items())}
    return {kind: (load_tokenizer(place), AutoTokenizer.from_pretrained(place)) for kind, place in directories.items()}


@pytest.mark.row("tokens.as_transformers", "tokens.added", "tokens.bos")
@KIND
@settings(deadline=None, max_examples=60)
@given(text=TEXTS)
def test_ids_are_those_of_transformers(both: dict[str, Both], kind: str, text: str) -> None:
    ours, theirs = both[kind]
    assert ours.encode(text) == theirs.encode(text)
    without = ours.encode(text, Reading(add_special_tokens=False))
    assert without == theirs.encode(text, add_special_tokens=False)


@KIND
@settings(deadline=None, max_examples=60)
@given(text=TEXTS)
def test_spans_are_the_tokens_in_the_order_of_the_text(both: dict[str, Both], kind: str, text: str) -> None:
    tokenizer, _ = both[kind]
    spans = tokenizer.spans(text)
    assert [span.id for span in spans] == tokenizer.encode(text)
    end = 0
    for span in spans:
        assert end <= span.start <= span.stop <= len(text)
        assert span.text == text[span.start : span.stop]
        end = span.stop


@KIND
@settings(deadline=None, max_examples=60)
@given(text=TEXTS)
def test_a_text_has_no_fewer_tokens_than_were_told(both: dict[str, Both], kind: str, text: str) -> None:
    tokenizer, _ = both[kind]
    assert tokenizer.least_tokens(text) <= len(tokenizer.encode(text, Reading(add_special_tokens=False)))
    assert tokenizer.least_tokens(text) <= len(tokenizer.encode(text, PLAIN_TEXT))


@KIND
@pytest.mark.parametrize("text", [" " * 3000, "<|endoftext|>" * 300, "x" * 3000, "\u0301" * 3000, " \n" * 1500])
def test_a_long_text_of_few_tokens_has_no_fewer_than_were_told(both: dict[str, Both], kind: str, text: str) -> None:
    tokenizer, _ = both[kind]
    assert tokenizer.least_tokens(text) <= len(tokenizer.encode(text, Reading(add_special_tokens=False)))


@KIND
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_pieces_of_any_ids_add_up_to_their_text(both: dict[str, Both], kind: str, data: st.DataObject) -> None:
    tokenizer, _ = both[kind]
    special = st.sampled_from(sorted(tokenizer.special_ids))
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 3) | special, max_size=30))
    for skip in (True, False):
        decoder = tokenizer.decoder(skip_special_tokens=skip)
        pieces = [decoder.decode(token_id) for token_id in ids]
        assert "".join([*pieces, decoder.flush()]) == tokenizer.decode(ids, skip)


@KIND
def test_added_and_special_tokens_are_the_same(both: dict[str, Both], kind: str) -> None:
    ours, theirs = both[kind]
    flagged = {token_id for token_id, token in theirs.added_tokens_decoder.items() if token.special}
    assert ours.special_ids == flagged | set(theirs.all_special_ids)
    assert ours.vocab_size == len(theirs)
    for token_id, token in theirs.added_tokens_decoder.items():
        assert ours.name(token_id) == token.content


@KIND
def test_what_is_saved_reads_a_text_alike(both: dict[str, Both], kind: str, tmp_path: Path) -> None:
    """Fine-tuning keeps what its base has: added tokens, BOS, WordPiece."""
    tokenizer, theirs = both[kind]
    (tmp_path / "merges.txt").write_text("of another vocabulary")
    save_tokenizer(write_directory(tmp_path, {}), tokenizer)
    saved, text = load_tokenizer(tmp_path), "".join(PIECES)
    assert saved.encode(text) == AutoTokenizer.from_pretrained(tmp_path).encode(text) == theirs.encode(text)
    assert saved.special_ids == tokenizer.special_ids


# The examples of the issue


@pytest.mark.row("tokens.as_transformers")
@pytest.mark.parametrize(
    ("kind", "text", "ids"),
    [
        ("plain", "Hello world", [39, 7827, 895]),
        ("tokenizer.json", "<|user|>Hello<|bot|>", [8192, 39, 7827, 8193]),
        ("added_tokens.json", "<|user|>Hello<|bot|>", [8192, 39, 7827, 8193]),
        ("tokenizer_config.json", "<|user|>Hello<|bot|>", [8192, 39, 7827, 8193]),
        ("prefix space", "Hello world", [459, 285, 78, 895]),
        ("prefix space in tokenizer.json", "Hello world", [459, 285, 78, 895]),
        ("BOS", "Hello world", [8191, 39, 7827, 895]),
        ("BOS by a post-processor", "Hello world", [8191, 39, 7827, 895]),
        ("lower case", "Hello world", [257, 285, 78, 895]),
        ("whitespace", "Hello world", [39, 7827, 2158, 307]),
    ],
)
def test_known_ids(both: dict[str, Both], kind: str, text: str, ids: list[int]) -> None:
    ours, theirs = both[kind]
    assert ours.encode(text) == theirs.encode(text) == ids


def test_the_end_token_in_a_text_is_one_in_every_directory_that_names_it(both: dict[str, Both]) -> None:
    for kind in ("plain", "tokenizer.json", "added_tokens.json", "BOS"):
        assert both[kind][0].encode("Hi there<|endoftext|>")[-1] == 8191


@pytest.mark.row("tokens.special_output")
def test_an_added_word_has_its_text_and_a_special_token_none(both: dict[str, Both]) -> None:
    for kind in ("tokenizer.json", "added_tokens.json", "lower case"):
        tokenizer, _ = both[kind]
        assert tokenizer.decode([39, 8194, 895]) == "Hwörd world", "ö is a byte in the alphabet, but not here"
        assert not tokenizer.is_special(8194)
        assert tokenizer.token_bytes(8194) == "wörd".encode()
    tokenizer, _ = both["tokenizer.json"]
    assert tokenizer.decode([8192, 39, 8193]) == "H"
    assert tokenizer.decode([8192, 39, 8193], skip_special_tokens=False) == "<|user|>H<|bot|>"
    assert tokenizer.is_special(8192)
    assert tokenizer.token_bytes(8192) == b""


def test_gpt2s_plain_tokenizer_is_tiktokens_and_everything_else_the_librarys(both: dict[str, Both]) -> None:
    classes = {kind: type(ours) for kind, (ours, _) in both.items()}
    plain = ("plain", "added_tokens.json", "special_tokens_map.json", "tokenizer_config.json", "tokenizer.json", "overlapping")
    assert {classes[kind] for kind in plain} == {BPETokenizer}
    others = ("prefix space", "BOS", "BOS by a post-processor", "lower case", "whitespace", "tokens that take blanks")
    assert {classes[kind] for kind in others} == {LibraryByteTokenizer}
    assert {ours for kind, ours in classes.items() if kind.startswith("WordPiece")} == {WordPieceTokenizer}


# What a reading is


@pytest.mark.row("tokens.parse_special")
@KIND
def test_tokens_that_are_not_to_be_read_are_plain_text(both: dict[str, Both], kind: str) -> None:
    """A stranger's text must not begin a turn or end a document."""
    tokenizer, theirs = both[kind]
    names = [token.content for token in theirs.added_tokens_decoder.values()]
    around = set(tokenizer.encode("")) | {tokenizer.vocab.get("[UNK]")}
    for name in names:
        ids = tokenizer.encode(f"a {name} b", Reading(parse_special=False))
        assert tokenizer.vocab[name] not in set(ids) - around
        assert not set(tokenizer.encode(f"a {name} b", PLAIN_TEXT)) & set(theirs.added_tokens_decoder) - around


def test_plain_text_that_is_no_tokens_decodes_to_itself(both: dict[str, Both]) -> None:
    text = "<|user|>wörd<|endoftext|> <|bot|>"
    for kind in ("tokenizer.json", "added_tokens.json", "BOS"):
        tokenizer, _ = both[kind]
        assert tokenizer.decode(tokenizer.encode(text, PLAIN_TEXT)) == text


def test_spans_of_bos_are_empty_and_of_a_changed_text_those_of_the_original(both: dict[str, Both]) -> None:
    bos = both["BOS and EOS"][0].spans("Hello world")
    assert [(span.text, span.start, span.stop) for span in bos] == [
        ("", 0, 0),
        ("H", 0, 1),
        ("ello", 1, 5),
        (" world", 5, 11),
        ("", 11, 11),
    ]
    lower = both["lower case"][0].spans("İHELLO <|user|>")  # whose first letter becomes two
    assert "".join(span.text for span in lower) == "İHELLO <|user|>"
    assert lower[-1].text == "<|user|>"


def test_a_character_cut_over_tokens_belongs_to_the_token_that_completes_it_in_the_library_too(both: dict[str, Both]) -> None:
    spans = both["BOS"][0].spans("a🜲b")
    assert len(spans) > 4
    assert [(span.text, span.start, span.stop) for span in spans if span.text] == [("a", 0, 1), ("🜲", 1, 2), ("b", 2, 3)]


# Words


def test_words_are_written_as_a_reader_wants_them(both: dict[str, Both]) -> None:
    tokenizer, _ = both["WordPiece"]

    def read_back(text: str) -> str:
        return tokenizer.decode(tokenizer.encode(text))

    assert read_back("Hello , world !") == "hello, world!"
    assert read_back("你好，世界。") == "你好，世界。"
    assert read_back("playing 你好 world") == "playing你好world"
    assert read_back("(hello) world") == "(hello) world"
    assert tokenizer.decode(tokenizer.encode("hello"), skip_special_tokens=False) == "[CLS] hello [SEP]"


def test_a_words_decoder_knows_the_token_before(both: dict[str, Both]) -> None:
    tokenizer, _ = both["WordPiece"]
    ids = {word: i for i, word in enumerate(WORDS)}
    assert tokenizer.decoder().decode(ids["world"]) == "world"
    assert tokenizer.decoder(ids["hello"]).decode(ids["world"]) == " world"
    assert tokenizer.decoder(ids["你"]).decode(ids["world"]) == "world"
    assert tokenizer.decoder(ids["[SEP]"]).decode(ids["world"]) == "world"
    assert tokenizer.decoder(ids["play"]).decode(ids["##ing"]) == "ing"


def test_names_of_word_pieces_are_told_apart(both: dict[str, Both]) -> None:
    tokenizer, _ = both["WordPiece"]
    names = [tokenizer.name(i) for i in range(tokenizer.vocab_size + 2)]
    assert len(set(names)) == len(names)
    assert tokenizer.name(WORDS.index("##s")) == "##s"
    assert tokenizer.token_bytes(WORDS.index("##s")) == b"s"


def test_a_million_characters_of_words_are_told_quickly_or_refused(both: dict[str, Both]) -> None:
    for kind in ("WordPiece", "BOS", "lower case"):
        assert len(both[kind][0].encode("你好 world" * 20_000)) > 20_000


@pytest.mark.parametrize("kind", ["BOS", "lower case", "WordPiece"])
def test_others_go_on_while_a_long_text_is_cut(both: dict[str, Both], kind: str) -> None:
    """The library holds the interpreter as long as it likes; the service's event loop must not stand still for it."""
    turns, over = 0, threading.Event()

    def take_turns() -> None:
        nonlocal turns
        while not over.wait(0.001):
            turns += 1

    other = threading.Thread(target=take_turns)
    other.start()
    before = turns
    both[kind][0].encode("你好 world, " * 60_000)
    taken = turns - before
    over.set()
    other.join()
    assert taken > 10


# Where releases of `transformers` differ, and what a file may leave out


def test_a_normalizer_is_heard_under_gpt2s_class_too(tmp_path: Path) -> None:
    """Release 4 hears it, release 5 drops it without a word; the model was trained on what it gives."""
    write_directory(tmp_path, {"tokenizer.json": bpe_file(normalizer={"type": "Lowercase"})})
    assert read_tokenizer(tmp_path).encode("Hello world") == [257, 285, 78, 895]


def test_words_need_no_class(tmp_path: Path) -> None:
    assert read_tokenizer(write_directory(tmp_path, WORD_FILES)).encode("hello") == [3, 10, 4]


def test_the_configs_class_counts_where_the_tokenizer_has_none(tmp_path: Path) -> None:
    write_directory(tmp_path, WORD_FILES, tokenizer_class="BertTokenizerFast")
    assert read_tokenizer(tmp_path).encode("hello") == AutoTokenizer.from_pretrained(tmp_path).encode("hello") == [3, 10, 4]


def test_entries_beyond_the_merges_are_their_text(tmp_path: Path) -> None:
    vocab = {**json.loads((VOCABULARY / "vocab.json").read_text(encoding="utf-8")), "<|user|>": 8192, "Ġzzyzx": 8193, "你": 8194}
    tokenizer = read_tokenizer(write_directory(tmp_path, GPT2_FILES | {"vocab.json": vocab}))
    assert [tokenizer.decode([token_id]) for token_id in (8192, 8193, 8194)] == ["<|user|>", " zzyzx", "你"]
    assert [tokenizer.is_special(token_id) for token_id in (8191, 8192, 8193, 8195)] == [True, False, False, True]
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.encode("<|user|> zzyzx") == theirs.encode("<|user|> zzyzx")


# What is refused


def without_a_byte() -> Files:
    whole = bpe_file(normalizer={"type": "Lowercase"})
    whole["model"]["vocab"] = {token: i for token, i in whole["model"]["vocab"].items() if token != "!"}
    return whole


def words_without_unknown() -> Files:
    whole = word_piece_file(added_tokens=[])
    del whole["model"]["vocab"]["[UNK]"]
    return whole


def as_it_is(whole: Files) -> Files:
    return {"tokenizer.json": whole, "tokenizer_config.json": AS_IT_IS}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (lambda: {"tokenizer.json": without_a_byte()}, "the vocabulary lacks 1 of the 256 bytes, the first is '!'"),
        (
            lambda: as_it_is(words_without_unknown()),
            "lacks '[UNK]', which stands for words",
        ),
        (
            lambda: as_it_is(bpe_file(decoder={"type": "Metaspace"})),
            "decoder is 'Metaspace'",
        ),
        (lambda: as_it_is(bpe_file(decoder=None)), "decoder is None"),
        (lambda: {"tokenizer.json": bpe_file([END_OF_TEXT, added(8200, "<|user|>")])}, "'<|user|>' the id 8200, but behind"),
        (lambda: GPT2_FILES | {"added_tokens.json": USER_AND_BOT | {"<|x|>": 9000}}, "'<|x|>' the id 9000, but behind"),
        (lambda: GPT2_FILES | {"added_tokens.json": {"<|x|>": "8192"}}, "'8192' is no token id"),
        (lambda: GPT2_FILES | {"tokenizer_config.json": {"tokenizer_class": "T5Tokenizer"}}, "its tokenizer_class is T5Tokenizer"),
        (lambda: WORD_FILES | {"tokenizer_config.json": {"tokenizer_class": "BertJapaneseTokenizer"}}, "is BertJapaneseTokenizer"),
        (lambda: GPT2_FILES | {"tokenizer_config.json": {"split_special_tokens": True}}, "split_special_tokens is true"),
        (lambda: GPT2_FILES | {"tokenizer_config.json": "{"}, "tokenizer_config.json is not JSON"),
        (lambda: GPT2_FILES | {"tokenizer_config.json": "[]"}, "tokenizer_config.json must hold one JSON object"),
        (lambda: GPT2_FILES | {"tokenizer_config.json": {"added_tokens_decoder": []}}, "the added tokens of"),
        (lambda: GPT2_FILES | {"tokenizer_config.json": {"eos_token": {"no": "content"}}}, "the added tokens of"),
        (lambda: GPT2_FILES | {"tokenizer_config.json": {"extra_special_tokens": "x"}}, "the added tokens of"),
        (lambda: {"vocab.txt": "[UNK]\na\na\n"}, "vocab.txt has the token 'a' twice"),
        (
            lambda: {"vocab.txt": "[UNK]\na\n", "tokenizer_config.json": BERT},
            "adds a token to every text that the vocabulary",
        ),
        (dict, "neither vocab.json with merges.txt nor tokenizer.json nor vocab.txt"),
    ],
)
def test_what_cannot_be_right_is_refused_by_name(tmp_path: Path, files: object, message: str) -> None:
    assert callable(files)
    write_directory(tmp_path, files())
    with pytest.raises(TokenizerError) as refusal:
        read_tokenizer(tmp_path)
    assert message in str(refusal.value)


def test_a_tokenizer_with_more_tokens_than_the_model_has_ids_is_refused(tmp_path: Path) -> None:
    write_directory(tmp_path, {"tokenizer.json": bpe_file(DIALOGUE)}, vocab_size=8194)
    with pytest.raises(CheckpointError, match=r"ids up to 8194, but vocab_size in config\.json is 8194"):
        load_tokenizer(tmp_path)


def test_two_ways_to_merge_a_token_are_left_to_the_library(tmp_path: Path) -> None:
    """tiktoken knows ids alone, the library pairs: `xabc` is merged by the second pair here, which comes later."""
    whole = bpe_file()
    whole["model"]["merges"] = [*whole["model"]["merges"], "Ġwor ld"]
    tokenizer = read_tokenizer(write_directory(tmp_path, {"tokenizer.json": whole}))
    assert isinstance(tokenizer, LibraryByteTokenizer)
    assert tokenizer.encode("Hello world") == AutoTokenizer.from_pretrained(tmp_path).encode("Hello world")


def test_a_prefix_space_of_the_file_is_overruled_by_gpt2s_class(tmp_path: Path) -> None:
    write_directory(tmp_path, {"tokenizer.json": bpe_file(pre_tokenizer=BYTE_LEVEL | {"add_prefix_space": True})})
    assert read_tokenizer(tmp_path).encode("Hello") == AutoTokenizer.from_pretrained(tmp_path).encode("Hello") == [39, 7827]
