"""The settings as they were written: what of them nothing reads."""

import os

from app.doctor.finding import Finding, advice, ok
from app.unread_settings import unread


def settings() -> Finding:
    """`gpt2 serve` starts without them, and logs each."""
    lines = unread(os.environ)
    if lines:
        return advice("settings", "; ".join(lines), "mend the names and lines, or take them out")
    return ok("settings", "each GPT2_ name in environment and .env is read by something")
