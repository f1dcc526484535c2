"""Whether requests would be traced, as OpenTelemetry's variables have it. What would send them is made, told nothing, and ended."""

import os

from app.doctor.finding import Finding, ok, problem
from app.errors import StartupError
from app.telemetry import asked_for, open_tracing


def traces() -> Finding:
    try:
        exporters, asking = asked_for(os.environ)
        tracing = open_tracing(os.environ)
    except StartupError as error:
        return problem("traces", error)
    if tracing is None:
        return ok("traces", "none")
    tracing.provider.shutdown()
    return ok("traces", f"{' and '.join(exporters)}, asked for by {asking}")
