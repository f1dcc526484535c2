"""The command-line options of a run's data."""

import argparse
from pathlib import Path

from app.commands.data_options import add_data_options
from model.training.data.leftovers import Leftovers


def test_validation_takes_one_file_and_leaves_the_data_to_the_paths():
    parser = argparse.ArgumentParser()
    add_data_options(parser, "what is read", "held out")
    options = parser.parse_args(["--validation", "a.txt", "--validation", "b.txt", "texts"])
    assert options.validation == [Path("a.txt"), Path("b.txt")]
    assert options.paths == [Path("texts")]


def test_binary_files_left_out_are_not_offered_to_be_read():
    leftovers = Leftovers()
    leftovers.suffixes[".png"] = 1
    assert leftovers.lines() == ["left out of the folders: 1 .png"]
