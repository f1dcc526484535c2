"""The same with OpenAI's own client: `python examples/openai_client.py [URL]` (or GPT2_URL; needs openai).

Where the service asks for an API key, GPT2_API_KEY holds it.
"""

import os
import sys

from openai import OpenAI

URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("GPT2_URL", "http://127.0.0.1:8000")
PROMPT = "The old man looked at the sea and"

with OpenAI(base_url=f"{URL}/v1", api_key=os.environ.get("GPT2_API_KEY", "none is needed")) as client:
    model = client.models.list().data[0].id
    completion = client.completions.create(model=model, prompt=PROMPT, max_tokens=40, temperature=0.8, seed=1)
    print(completion.choices[0].text)

    print("\nThe same, streamed:")
    with client.completions.create(model=model, prompt=PROMPT, max_tokens=40, temperature=0.8, seed=1, stream=True) as chunks:
        for chunk in chunks:
            print(chunk.choices[0].text, end="", flush=True)
    print()
