"""Every cause for which a request, or the start of the service, fails: one type each, with its HTTP status and code.

ServiceError                     500 generation
|- InvalidRequest                422 validation
|  |- PromptTooLong
|  |- BodyTooLarge               413
|  |- TemplateFailed
|  |- TooMuchWork
|  |- MalformedRequest          400: no HTTP, or ambiguous HTTP; it ends its connection, like those below
|  |- RequestTooSlow            408
|  |- UrlTooLong                414
|  |- HeadTooLarge              431
|  |- MethodUnknown             501
|  |- VersionUnknown            505
|- InvalidKey                    401 invalid_api_key
|- NotFound                      404 not_found
|- Overloaded                    429 overloaded, Retry-After
|  |- QueueFull
|  |- WorkFull
|  |- WaitTooLong
|  |- KeyLimitReached
|  |- LongTextsFull
|  |- InspectionsFull
|- TooManyConnections            503 overloaded, Retry-After
|- NotReady                      503 not_ready, Retry-After
|  |- Draining                   and the connection closes
|- ClientLeft                    499, seen by nobody but the metrics
|- DeadlinePassed               504 timeout
|- GenerationFailed              500 generation
|  |- InspectionFailed
StartupError                     exit code 78 (EX_CONFIG of sysexits.h): setting, address, keys, model, no room, no threads
|- ModelUnusable                 exit code 2, as CommandError, where an option named the model
An engine that is lost           exit code 70 (EX_SOFTWARE), once all clients have been told: NotReady; or if it does not come up
CommandError                     exit code 2: training or measuring cannot be done as asked
"""

MAX_RETRY_AFTER = 60  # seconds: the longest that OpenAI's client heeds


class ServiceError(Exception):
    """A cause that a client is told about: `status` over HTTP, `code` as TGI's error_type, the message as text."""

    status = 500
    code = "generation"
    retry_after: int | None = None  # whole seconds
    reason: str | None = None  # why a request was rejected for the time being: a label of the metrics

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


class TooMuchWork(InvalidRequest):
    def __init__(self, num_tokens: int, limit: int) -> None:
        message = f"the request may take {num_tokens} tokens, its prompts and all that it asks for; at most {limit} are taken on"
        super().__init__(message)


class TemplateFailed(InvalidRequest):
    """The chat template raised, was too slow or made no text of the messages."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the chat template cannot render these messages: {reason}", param="messages")
        self.reason = reason


class InvalidKey(ServiceError):
    """One message for all: whether it was the header, the scheme or the key is for no stranger to know."""

    status, code = 401, "invalid_api_key"
    reason = "unauthorized"

    def __init__(self) -> None:
        super().__init__("a valid API key is needed, in the header `Authorization: Bearer KEY`")


class MalformedRequest(InvalidRequest):
    """What cannot be read as HTTP, or could be read in two ways, as those do who smuggle requests past a proxy."""

    status = 400

    def __init__(self, reason: str) -> None:
        super().__init__(f"the request is no HTTP/1.1: {reason}")


class RequestTooSlow(InvalidRequest):
    status = 408


class UrlTooLong(InvalidRequest):
    status = 414

    def __init__(self, limit: int) -> None:
        super().__init__(f"the request's target is longer than {limit} bytes, the most that is read")


class HeadTooLarge(InvalidRequest):
    status = 431


class MethodUnknown(InvalidRequest):
    """A method or a coding that this server has for no address at all."""

    status = 501


class VersionUnknown(InvalidRequest):
    status = 505

    def __init__(self) -> None:
        super().__init__("the request is of another version of HTTP; 1.1 and 1.0 are spoken here")


class TooManyConnections(ServiceError):
    status, code, retry_after, reason = 503, "overloaded", 1, "too_many_connections"

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} connections are open, the most that are served; try again in {self.retry_after} s")


class NotFound(ServiceError):
    status, code = 404, "not_found"


class Overloaded(ServiceError):
    """No room now: the same request may come in after `retry_after` seconds."""

    status, code = 429, "overloaded"

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(f"{message}; try again in {retry_after} s")
        self.retry_after = retry_after


class QueueFull(Overloaded):
    reason = "queue_full"

    def __init__(self, num_waiting: int, limit: int, retry_after: int) -> None:
        super().__init__(f"{num_waiting} samples wait already, the limit is {limit}", retry_after)


class WorkFull(Overloaded):
    """The requests inside may take as many tokens as are taken on."""

    reason = "work_full"

    def __init__(self, num_inside: int, num_tokens: int, limit: int, retry_after: int) -> None:
        message = f"{num_inside} tokens of work are taken on already, this request has {num_tokens} or more, the limit is {limit}"
        super().__init__(message, retry_after)


class WaitTooLong(Overloaded):
    """In the queue alone the request's time would pass, or that which anybody waits."""

    reason = "wait_too_long"

    def __init__(self, wait_seconds: float, limit_name: str, limit_seconds: float, retry_after: int) -> None:
        message = f"about {wait_seconds:.1f} s would pass before this request starts, {limit_name} is {limit_seconds:g} s"
        super().__init__(message, retry_after)


class KeyLimitReached(Overloaded):
    """Other keys' requests are let in."""

    reason = "key_limit"

    def __init__(self, limit: int, retry_after: int) -> None:
        super().__init__(f"{limit} requests of this API key are under way, the limit is {limit}", retry_after)


class LongTextsFull(Overloaded):
    """Too much text waits to be cut into tokens, or has answers that nobody reads; a few kilobytes need no place there."""

    reason = "long_texts_full"

    def __init__(self, num_bytes: int, what: str, limit: int, retry_after: int) -> None:
        super().__init__(f"{num_bytes} bytes of long texts {what}, the limit is {limit}", retry_after)


class InspectionsFull(Overloaded):
    """The lane takes one at a time, and holds few in its queue, and few bytes that nobody reads."""

    reason = "inspections_full"

    def __init__(self, what: str, limit: int, retry_after: int) -> None:
        super().__init__(f"{what}, the limit is {limit}", retry_after)


class NotReady(ServiceError):
    """Starting, draining, or the engine has stopped."""

    status, code, reason = 503, "not_ready", "not_ready"

    def __init__(self, message: str, retry_after: int = 5) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Draining(NotReady):
    """The service ends: another connection may lead to one that stays, so this one is closed."""

    reason = "draining"

    def __init__(self, message: str = "the service is shutting down") -> None:
        super().__init__(message)


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


class InspectionFailed(GenerationFailed):
    """The process that inspects failed on this request, or ended under it."""


ENGINE_LOST_EXIT_CODE = 70


class StartupError(Exception):
    """The service cannot start as configured; the message says what to mend."""

    exit_code = 78


class ModelUnusable(StartupError):
    """What the setting `model` names is not there, or no checkpoint that can be served; `reason` names it, not the setting."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"GPT2_MODEL: {reason}")
        self.reason = reason


def native_error(error: ServiceError) -> dict[str, str]:
    """The body of an error as text-generation-inference has it."""
    return {"error": error.message, "error_type": error.code}


def openai_error(error: ServiceError) -> dict[str, dict[str, str | None]]:
    """The body of an error as OpenAI has it."""
    kind = "rate_limit_error" if error.status == 429 else "server_error" if error.status >= 500 else "invalid_request_error"
    param = error.param if isinstance(error, InvalidRequest) else None
    return {"error": {"message": error.message, "type": kind, "param": param, "code": error.code}}


class CommandError(Exception):
    """What a command was asked cannot be done; the message is one line that says why and how to mend it."""
