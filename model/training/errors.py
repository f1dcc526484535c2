"""What ends training, told in one line: by a user's fault, with which the command line exits with 2, or by a second Ctrl-C."""


class TrainingError(ValueError):
    """The data, the options or the checkpoint cannot be used; the message says what is wrong and how to mend it."""


class TemplateError(TrainingError):
    """A chat template that cannot be used whatever it is given: no fault of the record that came first."""


class Diverged(TrainingError):
    """A run whose numbers are none any more; `what` says which."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"{what}; a smaller --learning-rate helps. What was saved before is kept")


class Interrupted(KeyboardInterrupt):
    """A run was ended at once; the message says what of it is saved."""
