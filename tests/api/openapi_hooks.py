"""What schemathesis cannot know when it makes requests that ought to be taken: it is told by what the schema cannot say."""

import schemathesis

VOCAB_SIZE = 500  # of the tiny checkpoint
LENGTHS = {"max_new_tokens": 2, "max_tokens": 2, "max_completion_tokens": 2, "min_new_tokens": 1, "min_tokens": 1}
MOST = LENGTHS | {"n": 2, "seed": 2**53}
# These are refused with any value that is not neutral, until they exist.
NOT_THERE = {"watermark", "grammar", "adapter_id", "suffix"}


@schemathesis.hook
def before_call(context, case, kwargs):
    """Keep generation short, and change what depends on the checkpoint or on two fields together."""
    if case.meta is not None and case.meta.generation.mode.is_positive and isinstance(case.body, dict):
        case.body = sensible(case.body)
        if isinstance(case.body.get("parameters"), dict):
            case.body["parameters"] = sensible(case.body["parameters"])


def sensible(fields):
    fields = {name: whole(value) for name, value in fields.items() if name not in NOT_THERE or value in (None, False)}
    for name, most in MOST.items():
        if fields.get(name) is not None:
            fields[name] = min(fields[name], most)
    if fields.get("seed") is not None:
        fields["seed"] = max(fields["seed"], -(2**53))  # FastAPI writes limits as floats: 2^64 - 1 is 2^64 there
    for name in {"inputs", "prompt", "ids", "stop_token_ids"} & fields.keys():
        fields[name] = short(fields[name])
    if fields.get("logit_bias"):
        fields["logit_bias"] = {str(int(key) % VOCAB_SIZE): bias for key, bias in fields["logit_bias"].items()}
    if fields.get("messages"):
        fields["messages"] = [message | {"content": short(message["content"])} for message in fields["messages"][:4]]
    if fields.get("candidates"):
        fields["candidates"] = [short(candidate) for candidate in fields["candidates"][:4]]
    return without_contradictions(fields)


def whole(value):
    """7.0 is an integer to JSON Schema, and none to this server."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        return int(value)
    return [whole(item) for item in value] if isinstance(value, list) else value


def short(value):
    """A prompt, a list of them or token ids, within context and vocabulary."""
    if isinstance(value, str):
        return value[:100]
    if isinstance(value, list):
        return [item % VOCAB_SIZE if isinstance(item, int) else short(item) for item in value[:100]]
    return value


def without_contradictions(fields):
    fields.pop("best_of", None)  # at least n, and no more than it in a stream
    if fields.get("inputs") is not None:
        fields.pop("prompt", None)  # another name of it
    if fields.get("max_tokens") == 0:
        fields["echo"] = True
    if fields.get("top_logprobs") is not None:
        fields["logprobs"] = True
    if fields.get("continue_final_message"):
        fields.pop("add_generation_prompt", None)
    if fields.get("parse_special") is False:
        fields.pop("add_special_tokens", None)
    if not fields.get("stream"):
        fields.pop("stream_options", None)
    if fields.get("timeout_seconds") is not None:
        fields["timeout_seconds"] = 60
    return fields
