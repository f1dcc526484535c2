"""Every cause for which a request, or the start of the service, fails: one type each, with its HTTP status and code.

ServiceError                     500 generation
|- InvalidRequest                422 validation
|  |- PromptTooLong
|  |- BodyTooLarge               413
|  |- TemplateFailed
|- NotFound                      404 not_found
|- QueueFull                     429 overloaded, Retry-After
|- WaitTooLong                   429 overloaded, Retry-After
|- NotReady                      503 not_ready, Retry-After
|- ClientLeft                    499, seen by nobody but the metrics
|- DeadlinePassed               504 timeout
|- GenerationFailed              500 generation
StartupError                     exit code 78 (EX_CONFIG of sysexits.h)
RunnerLost, of model/batch.py    exit code 70 (EX_SOFTWARE), once all clients have been told: NotReady
CommandError                     exit code 2: training or measuring cannot be done as asked
"""


class ServiceError(Exception):
    """A cause that a client is told about: `status` over HTTP, `code` as TGI's error_type, the message as text."""

    status = 500
    code = "generation"
    retry_after: int | None = None  # whole seconds

    @property
    def message(self) -> str:
        return str(self)


class InvalidRequest(ServiceError):
    """The request is at fault: `param` names the field where one is to blame. Under /v1 the status is 400."""

    status, code = 422, "validation"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class PromptTooLong(InvalidRequest):
    def __init__(self, num_tokens: str, limit: int, index: int | None = None) -> None:
        name = "the prompt" if index is None else f"prompt.{index}"
        super().__init__(f"{name} has {num_tokens} tokens; the model takes at most {limit}", param="prompt")


class BodyTooLarge(InvalidRequest):
    status = 413

    def __init__(self, limit: int) -> None:
        super().__init__(f"the body is larger than {limit} bytes, the most that is accepted")


class TemplateFailed(InvalidRequest):
    """The chat template raised, was too slow or made no text of the messages."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the chat template cannot render these messages: {reason}", param="messages")
        self.reason = reason


class NotFound(ServiceError):
    status, code = 404, "not_found"


class QueueFull(ServiceError):
    status, code = 429, "overloaded"

    def __init__(self, num_waiting: int, limit: int, retry_after: int) -> None:
        super().__init__(f"{num_waiting} samples wait already, the limit is {limit}; try again in {retry_after} s")
        self.retry_after = retry_after


class WaitTooLong(ServiceError):
    """In the queue alone the request's time would pass."""

    status, code = 429, "overloaded"

    def __init__(self, wait_seconds: float, timeout_seconds: float, retry_after: int) -> None:
        super().__init__(
            f"about {wait_seconds:.1f} s would pass before this request starts, its timeout_seconds is {timeout_seconds:g}; "
            f"try again in {retry_after} s"
        )
        self.retry_after = retry_after


class NotReady(ServiceError):
    """Starting, draining, or the engine has stopped."""

    status, code = 503, "not_ready"

    def __init__(self, message: str, retry_after: int = 5) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ClientLeft(ServiceError):
    """The client closed its connection; nobody reads the answer, and 499 is nginx's name for that."""

    status, code = 499, "client_left"


class DeadlinePassed(ServiceError):
    """The time that the request gave itself, in queue and engine together, was not enough."""

    status, code = 504, "timeout"

    def __init__(self, timeout_seconds: float) -> None:
        super().__init__(f"timeout_seconds: the {timeout_seconds:g} s of this request passed before its answer was complete")


class GenerationFailed(ServiceError):
    """The engine failed on this request."""


RUNNER_LOST_EXIT_CODE = 70


class StartupError(Exception):
    """The service cannot start as configured; the message says what to mend."""

    exit_code = 78


def native_error(error: ServiceError) -> dict[str, str]:
    """The body of an error as text-generation-inference has it."""
    return {"error": error.message, "error_type": error.code}


def openai_error(error: ServiceError) -> dict[str, dict[str, str | None]]:
    """The body of an error as OpenAI has it."""
    kind = "invalid_request_error" if error.status < 429 else "rate_limit_error" if error.status == 429 else "server_error"
    param = error.param if isinstance(error, InvalidRequest) else None
    return {"error": {"message": error.message, "type": kind, "param": param, "code": error.code}}


class CommandError(Exception):
    """What a command was asked cannot be done; the message is one line that says why and how to mend it."""
