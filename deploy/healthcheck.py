"""Exits 0 if the service beside it in the container is ready for requests. The image has no curl, and needs none."""

import os
import sys
from http.client import HTTPConnection, HTTPException

# Not urllib: it would send even this request through a proxy that Docker puts into the environment.
connection = HTTPConnection("127.0.0.1", int(os.environ.get("GPT2_PORT", "8000")), timeout=4)
try:
    connection.request("GET", "/health/ready")
    status = connection.getresponse().status
except (OSError, HTTPException) as error:
    sys.exit(f"no answer: {error}")
if status != 200:
    sys.exit(f"not ready: {status}")
