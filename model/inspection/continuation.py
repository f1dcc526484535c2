"""Which tokens a run goes on with: always the likeliest, so that what a change does to the text is the change's doing alone."""

from dataclasses import dataclass

from model.inspection.network import Changes, InspectedNetwork, Past, Run


@dataclass(frozen=True, slots=True)
class Continuation:
    """The tokens, up to an end token if one comes, and the log-probability of each."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


def go_on(network: InspectedNetwork, run: Run, past: Past, changes: Changes, max_new_tokens: int) -> Continuation:
    """Continue the run whose tokens are in `past`, under the changes that it was made with."""
    token_ids: list[int] = []
    logprobs: list[float] = []
    while len(token_ids) < max_new_tokens:
        if token_ids:
            run = network.run(token_ids[-1:], changes=changes, past=past)
        logprob, token_id = run.last_logits.log_softmax(-1).max(-1)
        token_ids.append(int(token_id))
        logprobs.append(float(logprob))
        if token_ids[-1] in network.config.eos_token_ids:
            break
    return Continuation(tuple(token_ids), tuple(logprobs))
