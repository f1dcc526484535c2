"""A step from its launch to its output, as the tests of all runners take it."""

from model.batch import ForwardBatch, Runner, StepOutput, check_output


def execute(runner: Runner, batch: ForwardBatch) -> StepOutput:
    """The batch's output, checked to be what was asked for."""
    output = runner.launch(batch).collect()
    check_output(batch, output)
    return output
