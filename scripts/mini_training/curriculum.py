"""The order in which the mini VLM learns: a task joins when what it builds on works, measured on dev scenes.

Weights are shares of the questions of a batch; `mix` holds the shares of the batches by what the model is shown.
Questions about a sign (`SIGN_TASKS`) are drawn only where a crop shows one.
"""

from dataclasses import dataclass, field

from mini_training.scenes import READABLE_THING

OVERVIEW, ONE_CROP, TWO_CROPS, GRID_2, GRID_3, TEXT = "overview", "crop", "two_crops", "grid2x2", "grid3x3", "text"
# Samples a worker takes per step, and questions asked about each.
BATCH = {OVERVIEW: (16, 4), ONE_CROP: (12, 5), TWO_CROPS: (8, 5), GRID_2: (6, 6), GRID_3: (4, 8), TEXT: (24, 3)}

SIGN_TASKS = ("sign_read", "sign_short")


@dataclass(frozen=True)
class Stage:
    """Ends when every goal (mode, task) -> accuracy is met after `least` steps, or at `most` steps."""

    name: str
    mix: dict[str, float]
    overview: dict[str, float]
    crops: dict[str, float] = field(default_factory=dict)
    text: dict[str, float] = field(default_factory=dict)
    goals: dict[tuple[str, str], float] = field(default_factory=dict)
    least: int = 150
    most: int = 1000
    decay: bool = False
    # px in the view, of what a crop is drawn around.
    least_size: float = READABLE_THING

    def tasks(self, mode: str) -> dict[str, float]:
        if mode == OVERVIEW:
            return self.overview
        return self.text if mode == TEXT else self.crops


_RELATIONS = {
    "relation_horizontal": 1.3,
    "relation_vertical": 1.3,
    "pair_horizontal": 1.0,
    "pair_vertical": 1.0,
}
_OPTIONS = {"option_list": 2.0, "option_letter": 1.0}

_EVERYTHING_OVERVIEW = {
    **_RELATIONS,
    "pair_horizontal": 0.6,
    "pair_vertical": 0.6,
    "relation_short_horizontal": 0.6,
    "relation_short_vertical": 0.6,
    "side_and_letter": 0.8,
    "side_letter_horizontal": 3.0,
    "side_letter_vertical": 3.0,
    "grid_list": 0.4,
    "location": 0.4,
    "color_existence": 1.0,
    "present_color_letter": 1.0,
}
_EVERYTHING_CROPS = {
    "color_list": 1.2,
    "shape_check": 1.5,
    "color_sentence": 1.7,
    "color_short": 0.7,
    "color_pair": 1.2,
    "color_pair_letter": 0.6,
    "shape_existence": 2.0,
    "color_letter": 2.2,
    "color_and_letter": 0.8,
    "present_color_letter": 0.8,
    "relation_horizontal": 1.0,
    "relation_vertical": 1.0,
    "relation_short_horizontal": 0.3,
    "relation_short_vertical": 0.3,
    "color_existence": 0.5,
    "sign_read": 1.0,
    "sign_short": 2.5,
}

STAGES = (
    Stage(
        "places",
        {OVERVIEW: 1.0},
        {"grid_list": 3.0, "check_list": 1.5, "side_list": 1.0, "location": 0.5},
        goals={(OVERVIEW, "grid_list"): 0.82, (OVERVIEW, "check_list"): 0.93},
        most=1000,
    ),
    Stage(
        "relations",
        {OVERVIEW: 0.88, TEXT: 0.12},
        {**_RELATIONS, "grid_list": 1.0, "location": 0.5, "check_list": 0.4, "color_existence": 1.0},
        text=_OPTIONS,
        goals={(OVERVIEW, "relation_horizontal"): 0.9, (OVERVIEW, "relation_vertical"): 0.88},
        most=1100,
    ),
    Stage(
        "crops",
        {OVERVIEW: 0.27, ONE_CROP: 0.55, TEXT: 0.18},
        {**_RELATIONS, "grid_list": 0.5, "location": 0.5, "color_existence": 0.7},
        {
            "color_list": 2.0,
            "shape_check": 2.0,
            "color_sentence": 1.5,
            "shape_existence": 1.5,
            "relation_horizontal": 0.8,
            "relation_vertical": 0.5,
            "sign_read": 2.0,
            "sign_short": 1.0,
        },
        _OPTIONS,
        {(ONE_CROP, "color_sentence"): 0.9, (ONE_CROP, "shape_check"): 0.9},
        most=1000,
        least_size=13.0,
    ),
    Stage(
        "everything",
        {OVERVIEW: 0.28, ONE_CROP: 0.36, TWO_CROPS: 0.12, GRID_2: 0.05, GRID_3: 0.08, TEXT: 0.11},
        _EVERYTHING_OVERVIEW,
        _EVERYTHING_CROPS,
        _OPTIONS,
        {
            (OVERVIEW, "side_letter_horizontal"): 0.9,
            (OVERVIEW, "side_letter_vertical"): 0.9,
            (ONE_CROP, "color_sentence"): 0.95,
            (ONE_CROP, "shape_existence"): 0.9,
            (ONE_CROP, "color_letter"): 0.85,
            (TWO_CROPS, "color_pair"): 0.93,
            (ONE_CROP, "sign_short"): 0.9,
            (GRID_3, "color_sentence"): 0.85,
            (GRID_3, "relation_horizontal"): 0.9,
        },
        least=500,
        most=1800,
    ),
    Stage(
        "polish",
        {OVERVIEW: 0.16, ONE_CROP: 0.38, TWO_CROPS: 0.16, GRID_2: 0.07, GRID_3: 0.16, TEXT: 0.07},
        _EVERYTHING_OVERVIEW,
        {
            **_EVERYTHING_CROPS,
            "relation_horizontal": 1.6,
            "relation_vertical": 1.6,
            "side_letter_horizontal": 0.3,
            "side_letter_vertical": 0.3,
        },
        _OPTIONS,
        most=700,
        decay=True,
    ),
)
