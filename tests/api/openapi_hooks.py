"""What schemathesis cannot know when it makes requests that ought to be taken: it is told by what the schema cannot say."""

import schemathesis

VOCAB_SIZE = 500  # of the tiny checkpoint
LENGTHS = {"max_new_tokens": 2, "max_tokens": 2, "max_completion_tokens": 2, "min_new_tokens": 1, "min_tokens": 1}
MOST = LENGTHS | {"n": 2, "seed": 2**53}
# These are refused with any value that is not neutral, until they exist.
NOT_THERE = {"watermark", "grammar", "adapter_id", "suffix"}
# Of inspections: what the tiny checkpoint has, whatever was made up.
NAMES = [
    "hook_embed",
    "blocks.*.attn.hook_attn_scores",
    "blocks.*.attn.hook_z",
    "*.hook_scale",
    "ln_final.hook_normalized",
    "*hook_m*",
]
STREAMS = ["hook_embed", "blocks.0.hook_resid_pre", "blocks.1.hook_attn_out", "blocks.1.hook_resid_post"]
NUM_LAYERS, WIDTH = 2, 100


@schemathesis.hook
def before_call(context, case, kwargs):
    """Keep generation short, and change what depends on the checkpoint or on two fields together."""
    if case.meta is not None and case.meta.generation.mode.is_positive and isinstance(case.body, dict):
        case.body = sensible(case.body)
        if case.path == "/v1/inspect":
            case.body = inspected(case.body)
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


def inspected(fields):
    """Of what was made up all that the checkpoint may have; without what depends on shapes, or on two fields together."""
    fields = fields | {"prompt": "The old man"}  # of several tokens, as some summaries need
    for name in {"names", "positions", "summaries", "target_position", "target_token", "ablations"} & fields.keys():
        if fields[name] is not None:
            fields[name] = THERE[name](fields[name])
    return fields


def ablated(fields):
    fields = {name: value for name, value in fields.items() if value is not None}
    for name in {"layer", "head", "position", "positions", "seed", "size", "scale"} & fields.keys():
        fields[name] = THERE[name](fields[name])
    if fields.get("name") == "ln_final":  # which is of no layer
        fields.pop("layer", None)
    return {"patch": patch, "steer": steering}.get(fields["kind"], dict)(fields)


def patch(fields):
    """By another prompt if there is one; of values there is one row."""
    kept = {"kind": "patch", "name": one_of(STREAMS, fields["name"])}
    if fields.get("prompt"):
        return kept | {"prompt": short(fields["prompt"])}
    return kept | {"positions": [0], "values": [[0.5] * WIDTH]}


def steering(fields):
    kept = {name: fields[name] for name in ("scale", "positions") if name in fields}
    kept |= {"kind": "steer", "name": one_of(STREAMS, fields["name"])}
    if "plus" in fields or "minus" in fields:
        return kept | {name: short(fields.get(name, "a")) for name in ("plus", "minus")}
    return kept | ({"direction": [0.5] * WIDTH} if "direction" in fields else {"token": 7})


def one_of(values, made_up):
    return values[len(str(made_up)) % len(values)]


def indices(made_up):
    """One or a list, as it was made up."""
    return sorted({number % NUM_LAYERS for number in made_up}) if isinstance(made_up, list) else made_up % NUM_LAYERS


THERE = {
    "names": lambda names: [one_of(NAMES, names)] if names else [],
    "positions": lambda positions: sorted({position % 2 for position in positions}),
    "summaries": lambda summaries: list(dict.fromkeys(summaries)),
    "target_position": lambda position: position % 2,
    "target_token": lambda _: 7,
    "ablations": lambda ablations: [ablated(each) for each in ablations[:4]],
    "layer": indices,
    "head": indices,
    "position": lambda position: position % 2,
    "seed": lambda seed: min(seed, 2**53),
    "size": lambda size: min(size, 3),
    "scale": lambda scale: max(min(scale, 2), -2),
}


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
