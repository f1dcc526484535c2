"""The service on the fake model whose steps go wrong as a prompt says: `!` fails its step, `"` kills the engine, `#` never returns.

    GPT2_FAKE_STEP_SECONDS=0.35 python -m tests.chaos.faulty_model serve --port 0

Each of these texts is one token, whose number is that of its byte in GPT-2's order, which begins with them.
"""

import sys
import threading
from unittest.mock import patch

from app.cli import main
from model.batch import ForwardBatch
from model.steps import Done
from tests.chaos import fake_model
from tests.chaos.fake_model import FakeRunner

FAIL, KILL, HANG = '!"#'


class FaultyRunner(FakeRunner):
    def launch(self, batch: ForwardBatch) -> Done:
        for chunk in batch.chunks:
            if chunk.start == 0:
                match chunk.token_ids[0]:
                    case 0:
                        raise RuntimeError("injected")
                    case 1:
                        raise SystemExit("killed")
                    case 2:
                        threading.Event().wait()
        return super().launch(batch)


if __name__ == "__main__":
    with patch("tests.chaos.fake_model.FakeRunner", FaultyRunner), patch("app.bootstrap.choose_runner", fake_model._choose):
        sys.exit(main())
