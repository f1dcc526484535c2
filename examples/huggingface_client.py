"""The same with Hugging Face's client: `python examples/huggingface_client.py [URL]` (or GPT2_URL; needs huggingface-hub).

Where the service asks for an API key, GPT2_API_KEY holds it.
"""

import os
import sys

from huggingface_hub import InferenceClient

URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("GPT2_URL", "http://127.0.0.1:8000")
PROMPT = "The old man looked at the sea and"

client = InferenceClient(URL, token=os.environ.get("GPT2_API_KEY"))
print(client.text_generation(PROMPT, max_new_tokens=40, temperature=0.8, seed=1))

print("\nThe same, streamed:")
for text in client.text_generation(PROMPT, max_new_tokens=40, temperature=0.8, seed=1, stream=True):
    print(text, end="", flush=True)
print()
