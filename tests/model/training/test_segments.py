"""A run that goes on otherwise than it began."""

import json
from dataclasses import asdict, replace

import pytest

from model.training.errors import TrainingError
from model.training.recipe import Recipe
from model.training.segments import Changes, Segment, Story, continued
from model.training.trainer import Progress

RECIPE = Recipe(max_steps=1000, warmup_steps=50, validate_every=10)


def go_on(recipe=RECIPE, step=1000, minutes=None, named=(), **changes):
    return continued(recipe, Progress(step=step), Changes(recipe=changes), minutes, named)


def test_a_finished_run_goes_on_by_a_schedule_that_begins_anew():
    recipe = go_on(max_steps=200)
    assert (recipe.first_step, recipe.max_steps) == (1000, 1200)
    factors = [recipe.learning_rate_factor(step) for step in range(1000, 1200)]
    assert factors[0] == 1 / 20
    assert max(factors) == factors[19] == 1
    assert factors[19:] == sorted(factors[19:], reverse=True)
    assert factors[-1] < 1e-3
    assert {recipe.window_length(step, 512) for step in range(1000, 1200)} == {512}
    again = go_on(recipe, step=1200, max_steps=100)
    assert (again.first_step, again.max_steps) == (1200, 1300)


@pytest.mark.parametrize(("step", "lengths"), [(200, [128, 256, 512]), (300, [256, 512]), (450, [256, 512]), (900, [512])])
def test_windows_go_on_growing_where_they_were(step, lengths):
    recipe = go_on(step=step, learning_rate=1e-3)
    assert recipe.max_steps == 1000
    before, after = ([one.window_length(number, 512) for number in range(step, 1000)] for one in (RECIPE, recipe))
    assert list(dict.fromkeys(after)) == lengths
    assert sum(a != b for a, b in zip(before, after, strict=True)) <= 2, "they grow at the same steps"


def test_what_is_no_matter_of_the_schedule_changes_nothing_of_it():
    recipe = go_on(step=400, validate_every=7, patience=3)
    assert recipe == replace(RECIPE, validate_every=7, patience=3)


def test_more_steps_are_validated_as_often_as_a_run_unless_their_distance_was_named():
    assert go_on(max_steps=2000).validate_every == 100
    assert go_on(max_steps=2000, named=["validate_every"]).validate_every == 10
    assert go_on(max_steps=2000, validate_every=3).validate_every == 3
    assert go_on(minutes=40).max_steps == 1040


def test_a_run_at_its_end_needs_steps():
    with pytest.raises(TrainingError, match="the run has made all its 1,000 steps; add some by --steps or --minutes"):
        go_on(learning_rate=1e-3)


@pytest.mark.parametrize("name", ["batch_size", "seed"])
def test_what_orders_the_data_cannot_change(name):
    with pytest.raises(TrainingError, match=f"{name} cannot change in a run that goes on"):
        Changes(recipe={name: 4})


@pytest.mark.parametrize("minutes", [0.0, float("nan"), float("inf")])
def test_minutes_are_above_zero(minutes):
    with pytest.raises(TrainingError, match="it must be above 0"):
        Changes(minutes=minutes)


def test_a_story_is_read_as_it_was_written():
    story = Story(("a.txt",), samples=("the",)).asked(0, "gpt2 train", {}).asked(5, "gpt2 train --resume", {"max_steps": 2})
    values = {
        "data": ["a.txt"],
        "segments": [{"first_step": s.first_step, "command": s.command, "changes": s.changes} for s in story.segments],
        "samples": ["the"],
    }
    assert Story.from_json(values) == story
    assert story.segments[1] == Segment(5, "gpt2 train --resume", {"max_steps": 2})
    assert Story.from_json({}) == Story()


def test_what_was_asked_for_again_before_a_step_was_made_replaces_what_was_asked_before():
    story = Story().asked(0, "begin", {"max_steps": 9}).asked(5, "first", {"learning_rate": 1e-3}, RECIPE)
    again = story.asked(5, "second", {"max_steps": 2}, replace(RECIPE, learning_rate=1e-3))
    assert [segment.command for segment in again.segments] == ["begin", "second"]
    assert again.segments[-1].changes == {"learning_rate": 1e-3, "max_steps": 2}, "the rate holds on"
    assert again.segments[0].recipe == RECIPE
    assert [segment.command for segment in Story().asked(0, "begin", {}).asked(0, "more", {}).segments] == ["begin", "more"]


def test_a_story_knows_by_which_recipe_each_step_was_made():
    later = replace(RECIPE, dropout=0.1)
    story = Story().asked(0, "", {}).asked(5, "", {}, RECIPE).asked(9, "", {}, later)
    assert [story.recipe_at(step) for step in (1, 5, 6, 9, 10)] == [RECIPE, RECIPE, later, later, None]
    assert Story.from_json(json.loads(json.dumps(asdict(story)))) == story
    assert Story().recipe_at(3) is None
