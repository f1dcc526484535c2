"""Generate text with httpx, at once and streamed: `python examples/generate.py [URL]` (or GPT2_URL; needs httpx).

Where the service asks for an API key, GPT2_API_KEY holds it.
"""

import json
import os
import sys

import httpx

URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("GPT2_URL", "http://127.0.0.1:8000")
REQUEST = {"inputs": "The old man looked at the sea and", "parameters": {"max_new_tokens": 40, "temperature": 0.8, "seed": 1}}

HEADERS = {"authorization": f"Bearer {os.environ['GPT2_API_KEY']}"} if "GPT2_API_KEY" in os.environ else {}

with httpx.Client(base_url=URL, headers=HEADERS, timeout=60) as client:
    response = client.post("/generate", json=REQUEST)
    if response.is_error:
        sys.exit(f"{response.status_code}: {response.json()['error']}")
    print(response.json()["generated_text"])

    print("\nThe same, streamed; the seed makes it the same text:")
    with client.stream("POST", "/generate", json=REQUEST | {"stream": True}) as response:
        if response.is_error:  # before the first token an error is a status, after it an event
            sys.exit(f"{response.status_code}: {json.loads(response.read())['error']}")
        for line in response.iter_lines():
            if line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    sys.exit(f"\n{event['error']}")
                print(event["token"]["text"], end="", flush=True)
    print()
