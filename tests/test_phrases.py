"""What a question is about, and of what it asks for all."""

from __future__ import annotations

import pytest

from semclip_eval.relevance.phrases import Target, noun_phrases, targets


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Is the red star left of the blue circle?", [Target("red star", False), Target("blue circle", False)]),
        # ZoomEye's own examples of questions that need all cars and all people.
        ("How many cars in the image?", [Target("car", True)]),
        ("How many people are there on the road?", [Target("people", True), Target("road", False)]),
        ("What is the number of red boats?", [Target("red boat", True)]),
        ("What is the number of the bus?", [Target("bus", False)]),
        ("How many of the glass boxes are on the table?", [Target("glass boxe", True), Target("table", False)]),
        ("Is every bus, and the van, parked?", [Target("bus", True), Target("van", False), Target("parked", False)]),
        ("Are all the cats near a wall?", [Target("cat", True), Target("wall", False)]),
        ("What is it?", []),
    ],
)
def test_targets_are_noun_phrases_and_know_what_is_asked_of_all(text: str, found: list[Target]) -> None:
    assert targets(text) == found
    assert len(noun_phrases(text)) == len(found)
