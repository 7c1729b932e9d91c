"""Every config composes and fits the class that it names; a component of the user's own is one file and one config."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from semclip_eval import cli
from semclip_eval.components import NOT_PARAMETERS, build, component_class, parameters_of
from semclip_eval.config import GROUPS
from semclip_eval.errors import ConfigError
from semclip_eval.results.summary import read_rows

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"
CHOICES = [(group, path.stem) for group in GROUPS for path in sorted((CONFIGS / group).glob("*.yaml"))]


def composed(*overrides: str) -> dict:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return OmegaConf.to_container(compose("config", list(overrides)), resolve=True)


@pytest.mark.parametrize("profile", ["mini", "full"])
@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_config_composes_and_fits_its_class(group, name, profile):
    section = composed(f"profile={profile}", f"{group}={name}")[group]
    assert section["name"] == name
    parameters = parameters_of(component_class(group, section))
    unknown = {key for key in section if key not in NOT_PARAMETERS} - set(parameters)
    assert not unknown


def test_the_profiles_choose_their_own_models_and_data():
    mini, full = composed("profile=mini"), composed("profile=full")
    assert (mini["model"]["name"], mini["psi"]["name"], mini["benchmark"]["path"]) == (
        "mini_llava",
        "mini_clip",
        "mini://vstar",
    )
    assert (full["model"]["name"], full["benchmark"]["path"]) == ("llava15_7b", None)
    assert composed("profile=mini", "model=llava15_7b")["model"]["name"] == "llava15_7b"


def test_a_key_that_the_class_does_not_know_is_named_with_a_suggestion():
    section = {"_target_": "semclip_eval.selectors.semclip.SemClip", "name": "semclip", "topk": 1}
    with pytest.raises(ConfigError, match=r"selector\.topk: SemClip has no such parameter\. Did you mean 'top_k'"):
        build("selector", section)


@pytest.mark.parametrize(
    "target", ["nonsense", "no.such.Module", "semclip_eval.crops.NoSuchClass", "os.path.join", None]
)
def test_a_target_that_is_no_class_is_named(target):
    with pytest.raises(ConfigError, match="_target_"):
        build("crops", {"_target_": target, "name": "x"})


def test_a_selector_of_the_users_own_is_one_file_and_one_config(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_selectors.py").write_text(
        "from semclip_eval.selectors.base import Selector, with_overview\n"
        "class LastCrop(Selector):\n"
        "    needs = frozenset({'candidates'})\n"
        "    def __init__(self, name):\n"
        "        self.name = name\n"
        "    def select(self, inputs, tools):\n"
        "        return [with_overview(item.image, item.candidates[-1:]) for item in inputs]\n"
    )
    (tmp_path / "mine" / "selector").mkdir(parents=True)
    (tmp_path / "mine" / "selector" / "last_crop.yaml").write_text(
        "_target_: my_selectors.LastCrop\nname: last_crop\ndescription: the last crop of the scheme\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    overrides = ["profile=mini", "selector=last_crop", "run.limit=3", f"run.output_dir={tmp_path / 'results'}"]
    assert cli.main(["--config-dir", str(tmp_path / "mine"), *overrides]) == 0
    (row,) = read_rows(tmp_path / "results" / "runs.csv")
    assert (row["selector"], row["n"], row["views_mean"], row["crops"]) == ("last_crop", "3", "2", "grid4x4")
