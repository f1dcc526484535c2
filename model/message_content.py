"""What a message of a conversation says, as OpenAI has it: a string, or a list of parts. Alike for the service and for training."""

import json


def joined_text(content: object) -> object:
    """A message's parts as one text, a line each as in vLLM; whatever is no list is returned as it is.

    Raises ValueError for parts that are no text, by their number from 0 on.
    """
    if not isinstance(content, list):
        return content
    texts = []
    for number, part in enumerate(content):
        if not isinstance(part, dict) or "type" not in part:
            raise ValueError(f"part {number} is no object with a type")
        if part["type"] != "text":
            raise ValueError(f"part {number} is of the type {json.dumps(part['type']):.40}; GPT-2 reads text alone")
        if not isinstance(part.get("text"), str):
            raise ValueError(f"part {number} has no text")
        texts.append(part["text"])
    return "\n".join(texts)
