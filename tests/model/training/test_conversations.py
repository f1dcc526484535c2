"""Conversations as examples: the assistant's words and their ends are learned alone, behind what the service would show."""

import asyncio

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from app.chat.conversation import Chat
from app.chat.conversation import Conversation as Asked
from model.chat_template import NAMED, ChatTemplate
from model.checkpoint import load_tokenizer
from model.tokenizer import Reading
from model.training.data.conversations import ChatWriter
from model.training.data.example_records import Conversation
from model.training.data.examples import IGNORED
from model.training.errors import TrainingError

EOS = 499
END = "<|endoftext|>"
GENERATION = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# How a reply begins where a template's opening leaves that to the model, and what ends it.
LEADS = {"plain": " "}
ENDS = {"plain": END, "dialogpt": END, "alpaca": END, "chatml": "<|im_end|>"}
words = st.text("abc é世.!?\n", min_size=1, max_size=12).filter(lambda text: text == text.strip() != "")
roles = st.lists(st.sampled_from(["system", "user", "assistant"]), min_size=1, max_size=7)


@pytest.fixture(scope="module")
def chat_tokenizer(chatml_checkpoint):
    """The small vocabulary with ChatML's marks as tokens."""
    return load_tokenizer(chatml_checkpoint)


def template_of(name):
    return ChatTemplate(NAMED.get(name, name), name, {"bos_token": END, "eos_token": END})


def message(role, content):
    return {"role": role, "content": content}


def conversation(*contents):
    """What a user and an assistant say in turn."""
    return Conversation([message("user" if i % 2 == 0 else "assistant", content) for i, content in enumerate(contents)])


def learned_of(example):
    return [target for target in example.targets if target != IGNORED]


def text_of(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=False)


@st.composite
def conversations(draw):
    """Messages of any roles in any order, one of them the assistant's at least."""
    said = [*draw(roles), "assistant"]
    return Conversation([message(role, draw(words)) for role in said], draw(st.integers(0, len(said) - 1)))


@pytest.mark.parametrize("name", ENDS)
@given(asked=conversations())
@settings(deadline=None, max_examples=60)
def test_of_any_conversation_the_assistants_words_and_their_ends_are_learned(chat_tokenizer, name, asked):
    example = ChatWriter(template_of(name), chat_tokenizer, EOS).example(asked)
    said = [asked.messages[i]["content"] for i in asked.learned()]
    assert text_of(chat_tokenizer, learned_of(example)) == "".join(LEADS.get(name, "") + words + ENDS[name] for words in said)
    assert len(example.ids) == len(example.targets)
    assert example.targets[-1] != IGNORED, "nothing is read in vain"


@pytest.mark.parametrize("name", ENDS)
def test_what_is_read_before_a_reply_is_the_prompt_that_the_service_makes_of_the_same_messages(chat_tokenizer, name):
    """Of the first reply to the token; of later ones in text, since what was said before them is tokenised as it was learned."""
    writer, chat = ChatWriter(template_of(name), chat_tokenizer, EOS), Chat(template_of(name), chat_tokenizer)
    try:
        for contents in (["Hello there.", "Hi!"], ["é?", "世\n\n.", "a b", "c"], ["\n a", "b\n ", " ", "<|im_end|>", "d", " e"]):
            asked = conversation(*contents)
            example = writer.example(asked)
            prompts = [asyncio.run(chat.prompt(Asked(tuple(asked.messages[:i])))) for i in asked.learned()]
            begins = [i for i in range(len(example.ids)) if starts_at(example, i)]
            assert [text_of(chat_tokenizer, example.ids[: begin + 1]) for begin in begins] == prompts
            assert example.ids[: begins[0] + 1] == chat_tokenizer.encode(prompts[0], Reading(add_special_tokens=False))
    finally:
        chat.close()


def starts_at(example, i):
    """Whether a reply is learned from here on, behind what is not."""
    return example.targets[i] != IGNORED and (i == 0 or example.targets[i - 1] == IGNORED)


@given(asked=conversations())
@settings(deadline=None, max_examples=60)
def test_what_is_learned_is_what_transformers_marks_as_the_assistants(chat_tokenizer, peer, asked):
    asked = Conversation(asked.messages)
    example = ChatWriter(template_of(GENERATION), chat_tokenizer, EOS).example(asked)
    made = peer.apply_chat_template(
        asked.messages, chat_template=GENERATION, return_assistant_tokens_mask=True, return_dict=True, tokenize=True
    )
    ids, is_learned = made["input_ids"], made["assistant_masks"]
    assert example.ids == ids[: len(example.ids)]
    assert (
        example.targets
        == [token if mask else IGNORED for token, mask in zip(ids[1:], is_learned[1:], strict=True)][: len(example.ids)]
    )
    assert not any(is_learned[len(example.ids) + 1 :])


@pytest.fixture(scope="module")
def peer(chatml_checkpoint):
    return transformers.AutoTokenizer.from_pretrained(chatml_checkpoint)


def test_an_end_that_the_template_does_not_write_is_learned_but_not_read(small_tokenizer):
    """A script's next line follows a reply at once, as the service shows it; that the reply ends there is learned all the same."""
    example = ChatWriter(template_of("plain"), small_tokenizer, EOS).example(conversation("a", "b", "c", "d"))
    assert text_of(small_tokenizer, example.ids) == "User: a\nAssistant: b\nUser: c\nAssistant: d"
    assert example.targets[-1] == EOS
    assert [target for target in example.targets if target == EOS] == [EOS, EOS]
    assert EOS not in example.ids


def test_a_reply_right_behind_another_leaves_that_ones_end_to_be_learned(small_tokenizer):
    template = template_of("{% for m in messages %}{{ m.content }}{% endfor %}")
    said = Conversation([message("user", "a"), message("assistant", "bc"), message("assistant", "de")])
    example = ChatWriter(template, small_tokenizer, EOS).example(said)
    assert text_of(small_tokenizer, example.ids) == "abcde"
    assert learned_of(example).count(EOS) == 2, "each reply ends"


def test_whitespace_at_the_end_of_a_reply_is_the_replys_own(small_tokenizer):
    template = template_of("{% for m in messages %}{{ m.content }}\n\n{% endfor %}")
    example = ChatWriter(template, small_tokenizer, EOS).example(conversation("a", "b \n"))
    assert text_of(small_tokenizer, learned_of(example)) == f"b \n{END}"


def test_marks_that_are_no_tokens_are_learned_as_text_and_named(small_tokenizer, chat_tokenizer):
    writer = ChatWriter(template_of("chatml"), small_tokenizer, EOS)
    assert writer.marks_as_text == ["<|im_start|>", "<|im_end|>"]
    assert text_of(small_tokenizer, learned_of(writer.example(conversation("a", "b")))) == "b<|im_end|>"
    assert ChatWriter(template_of("chatml"), chat_tokenizer, EOS).marks_as_text == []


def test_a_template_that_ignores_the_opening_leaves_it_to_the_model(small_tokenizer):
    template = template_of("{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}")
    example = ChatWriter(template, small_tokenizer, EOS).example(conversation("a", "b"))
    assert text_of(small_tokenizer, learned_of(example)) == "assistant:b;"


def test_an_assistant_may_speak_first(small_tokenizer):
    example = ChatWriter(template_of("dialogpt"), small_tokenizer, EOS).example(Conversation([message("assistant", "Hello")]))
    assert example.ids[0] == EOS, "as any text begins"
    assert text_of(small_tokenizer, learned_of(example)) == f"Hello{END}"


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{% for %}", "cannot be read: "),
        ("{{ messages | length }}", "does not write what an assistant says; --template names another"),
        ("{{ raise_exception('no roles') }}", "does not take these messages: no roles"),
        ("{{ messages[7].content }}", "does not take these messages: "),
        ("{{ messages | length }}{{ messages[-1].content }}", "writes message 2 so that it does not continue what is written"),
    ],
)
def test_a_template_that_cannot_be_learned_from_is_refused_by_name(small_tokenizer, template, fault):
    with pytest.raises(TrainingError) as refused:
        ChatWriter(ChatTemplate(template, "checkpoint", {}), small_tokenizer, EOS).example(conversation("a", "b"))
    assert str(refused.value).startswith(f"the chat template (checkpoint) {fault}")


def test_messages_of_which_a_template_writes_nothing_are_counted_by_their_roles(small_tokenizer):
    """Alpaca's writes a user and an assistant, and a system message where that is the first."""
    said = [
        ("system", " Be kind.\n"),
        ("usr", "Hello"),
        ("tool", "1"),
        ("tool", "2"),
        ("system", "Be brief."),
        ("assistant", "Hi!"),
    ]
    asked = Conversation([message(role, content) for role, content in said])
    unwritten = {name: ChatWriter(template_of(name), small_tokenizer, EOS).unwritten(asked) for name in NAMED}
    assert unwritten == {"plain": {}, "chatml": {}, "dialogpt": {}, "alpaca": {"usr": 1, "tool": 2, "system": 1}}
