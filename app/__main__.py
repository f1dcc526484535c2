"""`python -m app` is the command line `gpt2`."""

import sys

from app.cli import main

sys.exit(main())
