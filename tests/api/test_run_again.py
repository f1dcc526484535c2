"""What every runner promises to an engine that looks for the row which a step fails by: a step may be run again, in any parts."""

from app.engine.isolation import Isolation
from model.batch import Chunk, Draw, ForwardBatch, SamplingParams, Scores

PROMPTS = ((5, 6, 7, 8, 9), (20, 21, 22), (7,), tuple(range(30, 70)))


def draw(row: int, seed: int) -> Draw:
    params = SamplingParams(temperature=1.0, top_p=0.95, repetition_penalty=1.3, frequency_penalty=0.4, seed=seed)
    return Draw(row, params, num_prompt=row + 1, top_n=2)


def test_a_step_gives_the_same_when_it_is_run_again_in_parts(server_of_each_kind):
    runner = server_of_each_kind.runner
    chunks = [Chunk(slot, 0, ids, (draw(len(ids) - 1, slot),)) for slot, ids in enumerate(PROMPTS)]
    chunks[1] = chunks[1]._replace(draws=(draw(2, 7), draw(2, 8), draw(2, 9)))
    chunks[3] = chunks[3]._replace(scores=Scores(0, PROMPTS[3][1:], 1))
    for _ in range(4):
        batch = ForwardBatch(tuple(chunks))
        whole = runner.launch(batch).collect()
        again = Isolation(runner, batch, {}, lambda _: False)
        assert [found.output for found in again.found] == list(whole.chunks)
        chunks = [
            Chunk(chunk.slot, chunk.end, (out.tokens[0][0].token_id,), (draw(0, chunk.slot),))
            for chunk, out in zip(chunks, whole.chunks, strict=True)
        ]


def test_a_launch_that_nobody_collects_does_not_change_what_is_run_again(server_of_each_kind):
    runner = server_of_each_kind.runner
    batch = ForwardBatch(tuple(Chunk(slot, 0, ids, (draw(len(ids) - 1, slot),)) for slot, ids in enumerate(PROMPTS)))
    whole = runner.launch(batch).collect()
    runner.launch(batch)
    assert [found.output for found in Isolation(runner, batch, {}, lambda _: False).found] == list(whole.chunks)
