"""A GPT-2 of 124M parameters with seeded random weights, as fast as the trained one.

python -m benchmarks.gpu.checkpoint DIR
"""

import sys
from pathlib import Path

from benchmarks.machine import random_gpt2

if __name__ == "__main__":
    print(f"random weights in {random_gpt2(Path(sys.argv[1]))}")
