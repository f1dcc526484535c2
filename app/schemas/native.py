"""The bodies of the native routes, checked strictly: nothing is mended, and an unknown field is refused."""

import json
from typing import Annotated, Any, Self

from pydantic import ConfigDict, FailFast, Field, model_validator

from app.generation import GenerationRequest
from app.prompt import Prompt
from app.schemas.fields import GenerationFields, PromptField, ReadingFields, StopStringList, StrictModel, Text, TokenId
from model.batch import SamplingParams
from model.tokenizer import Reading

# Fields of the contract that are not there yet, with the one value of each that is taken besides null.
NOT_YET: dict[str, object] = {"watermark": False, "grammar": None, "adapter_id": None}


class GenerateParameters(GenerationFields, StrictModel):
    """How `/generate` continues the prompt; null stands for the default of any field."""

    max_new_tokens: int | None = Field(
        None, ge=1, description="Tokens to generate at most, 20 if absent; cut to what the context leaves."
    )
    min_new_tokens: int | None = Field(None, ge=0, description="Tokens before which neither end token nor stop_token_ids can come.")
    do_sample: bool | None = Field(
        None,
        description="Draw tokens; implied by temperature, top_k, top_p, typical_p and min_p. Else the likeliest is taken. "
        "false counts as absent: clients of text-generation-inference always send it.",
    )
    temperature: float | None = Field(None, ge=0, description="Divides the logits; 0 takes the likeliest token.")
    typical_p: float | None = Field(
        None, gt=0, le=1, description="Draw from the typical tokens that make up this probability; 1 is off."
    )
    seed: Annotated[int, Field(ge=0, le=2**64 - 1)] | None = Field(
        None, description="Same seed, same text; drawn if absent and returned in x-seed and details."
    )
    stop: StopStringList | None = Field(None, description="The text ends before the first of these.")
    return_full_text: bool | None = Field(None, description="Put the prompt before the generated text.")
    details: bool | None = Field(
        None,
        description="Return the tokens with their log-probabilities, the finish reason and the seed; implied by n above 1, "
        "top_n_tokens, decoder_input_details and cost.",
    )
    cost: bool | None = Field(
        None, description="Tell what the request cost: operations, bytes, seconds and energy, in details.cost; implies details."
    )
    top_n_tokens: int | None = Field(None, ge=0, le=5, description="Tell so many of the likeliest tokens beside each token.")
    decoder_input_details: bool | None = Field(None, description="Tell the log-probabilities of the prompt's own tokens.")
    truncate: int | None = Field(None, ge=1, description="Keep the last so many tokens of the prompt.")
    watermark: bool | None = Field(None, description="Not there.")
    grammar: dict[str, Any] | None = Field(None, description="Not there.")
    adapter_id: str | None = Field(None, description="Not there.")

    @model_validator(mode="after")
    def _refuse_what_is_missing(self) -> Self:
        for name, neutral in NOT_YET.items():
            if (value := getattr(self, name)) not in (None, neutral):
                neutrally, given = json.dumps(neutral), json.dumps(value)
                raise ValueError(f"{name}: this server does not support it yet; leave it out or send {neutrally}, not {given:.40}")
        return self

    @property
    def _asks_for_sampling(self) -> bool:
        filters = (self.top_k or 0) > 0 or self.min_p or (self.top_p or 1) < 1 or (self.typical_p or 1) < 1
        return bool(filters or self.temperature) and self.temperature != 0

    @property
    def num_returned(self) -> int:
        """How many samples the answer tells. TGI has no n: its best_of tells them all, the best first, in the details."""
        return self.num_samples if self.n is None and self._asks_for_details else self.num_wanted

    @property
    def tells_details(self) -> bool:
        return self._asks_for_details or self.num_returned > 1

    @property
    def _asks_for_details(self) -> bool:
        return bool(self.details or self.decoder_input_details or self.top_n_tokens or self.cost)

    def sampling(self) -> SamplingParams:
        temperature = 1.0 if self.temperature is None else self.temperature
        samples = self.do_sample or self._asks_for_sampling
        return self.sampling_params(temperature if samples else 0.0, self.typical_p or 1.0, self.seed)


class GenerateRequest(StrictModel):
    """The body of `/generate`, `/generate_stream` and `/`."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "inputs": "The old man looked at the sea and",
                "parameters": {"max_new_tokens": 40, "seed": 1, "top_p": 0.9},
            }
        }
    )

    inputs: PromptField | None = Field(
        None, description="The prompt, text or token ids; without one the model writes from nothing."
    )
    prompt: PromptField | None = Field(None, description="Another name of `inputs`.")
    parameters: GenerateParameters | None = Field(None, description="How to continue it.")
    stream: bool | None = Field(None, description="Answer with server-sent events, one a token.")

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if self.inputs is not None and self.prompt is not None:
            raise ValueError("inputs: the prompt is there twice; give it as `inputs` or as `prompt`")
        return self

    @property
    def given(self) -> Prompt:
        return self.inputs or self.prompt or ""

    @property
    def options(self) -> GenerateParameters:
        return self.parameters or GenerateParameters()

    def generation(self) -> GenerationRequest:
        options = self.options
        return GenerationRequest(
            prompts=(self.given,),
            sampling=options.sampling(),
            max_new_tokens=20 if options.max_new_tokens is None else options.max_new_tokens,
            min_new_tokens=options.min_new_tokens or 0,
            num_samples=options.num_samples,
            top_n=options.top_n_tokens or 0,
            prompt_top_n=0 if options.decoder_input_details else None,
            stop=tuple(options.stop or ()),
            stop_token_ids=frozenset(options.stop_token_ids or ()),
            ignore_eos=bool(options.ignore_eos),
            truncate=options.truncate,
            timeout_seconds=options.timeout_seconds,
            reading=options.reading,
            skip_special_tokens=options.skip_special_tokens is not False,
            tells_cost=bool(options.cost),
        )


class TokenizeRequest(ReadingFields, StrictModel):
    model_config = ConfigDict(json_schema_extra={"example": {"inputs": "Hello world"}})

    inputs: Text = Field(description="The text.")
    parameters: GenerateParameters | None = Field(
        None, description="Those of `/generate`, which text-generation-inference takes here too; truncate and the two above matter."
    )

    @property
    def reading(self) -> Reading:
        parts = (self, self.parameters or self)
        return Reading(
            all(part.parse_special is not False for part in parts), all(part.add_special_tokens is not False for part in parts)
        )

    @property
    def truncate(self) -> int | None:
        return self.parameters.truncate if self.parameters else None


class DetokenizeRequest(StrictModel):
    model_config = ConfigDict(json_schema_extra={"example": {"ids": [15, 42]}})

    ids: Annotated[list[TokenId], FailFast()] = Field(description="Token ids.")
    skip_special_tokens: bool | None = Field(
        None, description="Whether special tokens are left out of the text; if absent they are not, so that any text comes back."
    )
