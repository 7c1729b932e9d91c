"""Where the LLaVA adapter's weights come from, and what it says when they cannot be had."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from semclip_eval.errors import ConfigError, ModelError, QuestionError
from semclip_eval.models.transformers import dummy, memory, weights
from semclip_eval.models.transformers.llava import Llava15
from semclip_eval.models.transformers.prompts import CONVERSATIONS
from semclip_eval.models.transformers.transformers_vlm import TransformersVLM
from semclip_eval.types import Prompt, Request
from tests.llava_small import noise_image, save_qwen_style

CONFIGS = Path(__file__).parents[1] / "configs" / "model"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return save_qwen_style(tmp_path_factory.mktemp("published"))


@pytest.fixture
def folder(published, tmp_path):
    return Path(shutil.copytree(published, tmp_path / "copy"))


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """An empty cache and a hub client that refuses to go out."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def load(path, **settings):
    return Llava15(**{"name": "small", "hub_id": None, "path": path and str(path)} | settings)


def ask(vlm):
    return vlm.prepare(Request((noise_image(1),), Prompt("Is it red?", continuations=("yes", "no"))))


@pytest.mark.usefixtures("no_hub")
def test_a_local_folder_never_needs_the_hub(folder):
    vlm = load(folder, hub_id="nobody/nothing", revision="0" * 40)
    assert len(vlm.answer([ask(vlm)])[0].option_losses) == 2
    assert vlm.revision == f"local:{weights.folder_digest(folder)}"
    assert not vlm.model.training
    assert vlm.model.dtype == torch.float32


@pytest.mark.usefixtures("no_hub")
def test_unreachable_hub_says_what_where_and_what_to_do():
    with pytest.raises(ModelError) as caught:
        Llava15(name="llava15_7b", hub_id="llava-hf/llava-1.5-7b-hf", revision="a" * 40)
    message = str(caught.value)
    assert "llava-hf/llava-1.5-7b-hf at revision " + "a" * 40 in message
    assert "model.path=FOLDER" in message
    assert "profile=mini" in message
    assert "\n" not in message


@pytest.mark.usefixtures("no_hub")
def test_a_cached_snapshot_is_used_without_the_hub(published, tmp_path):
    revision = "b" * 40
    snapshot = tmp_path / "hub" / "models--lab--small" / "snapshots" / revision
    shutil.copytree(published, snapshot)
    vlm = Llava15(name="small", hub_id="lab/small", revision=revision)
    assert vlm.revision == revision
    assert len(vlm.answer([ask(vlm)])[0].option_losses) == 2


@pytest.mark.usefixtures("no_hub")
def test_a_snapshot_that_broke_off_is_not_taken_for_whole(published, tmp_path):
    snapshot = tmp_path / "hub" / "models--lab--small" / "snapshots" / ("c" * 40)
    shutil.copytree(published, snapshot)
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lab/small at revision c+ is not cached and could not be fetched"):
        Llava15(name="small", hub_id="lab/small", revision="c" * 40)


@pytest.mark.usefixtures("no_hub")
def test_a_branch_is_recorded_as_the_commit_it_stood_for(published, tmp_path):
    repository = tmp_path / "hub" / "models--lab--small"
    shutil.copytree(published, repository / "snapshots" / ("d" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("d" * 40)
    assert Llava15(name="small", hub_id="lab/small", revision="main").revision == "d" * 40


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_close_to_float32(published, dtype):
    exact, half = load(published), load(published, dtype=dtype)
    assert half.model.dtype == getattr(torch, dtype)
    expected = exact.answer([ask(exact)])[0].option_losses
    assert half.answer([ask(half)])[0].option_losses == pytest.approx(expected, rel=0.05)


def test_digest_changes_with_content_name_and_nothing_else(folder, published):
    before = weights.folder_digest(folder)
    assert before == weights.folder_digest(published)
    assert len(before) == 12
    (folder / ".cache").mkdir()
    (folder / ".cache" / "lock").write_text("x")
    assert weights.folder_digest(folder) == before
    note = folder / "note.txt"
    note.write_text("a")
    one = weights.folder_digest(folder)
    note.write_text("b")
    two = weights.folder_digest(folder)
    note.rename(folder / "other.txt")
    assert len({before, one, two, weights.folder_digest(folder)}) == 4


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"])
@pytest.mark.parametrize("damage", ["missing", "cut short"])
def test_missing_and_damaged_files_are_named(folder, name, damage):
    file = folder / name
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ModelError) as caught:
        load(folder)
    assert name in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_shard_is_named(folder):
    index = {"weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"model-00002-of-00002.safetensors: missing"):
        load(folder)


def test_a_checkpoint_without_a_layer_is_an_error(folder):
    tensors = load_file(folder / "model.safetensors")
    gone = next(name for name in tensors if "projector" in name)
    del tensors[gone]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 1 of the model's tensors, the first is .*projector"):
        load(folder)


def test_weights_of_another_shape_are_an_error(folder):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["intermediate_size"] += 8
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"cannot be read"):
        load(folder)


def test_another_architecture_is_refused(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ModelError, match=r"model_type is 'llama'"):
        load(folder)


def test_a_processor_that_does_not_fit_the_tower_is_refused(folder):
    file = folder / "preprocessor_config.json"
    file.write_text(file.read_text().replace("28", "42"))
    with pytest.raises(ModelError, match=r"makes 42x42 pixels, the vision tower takes 28x28"):
        load(folder)


def test_a_tower_that_returns_another_number_of_features_is_an_error(published, monkeypatch):
    vlm = load(published)
    prepared = ask(vlm)
    monkeypatch.setattr(vlm, "tokens_per_view", 16)
    with pytest.raises(ModelError, match=r"returned 17 features per view, config.json announces 16"):
        vlm.encode([prepared])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "no/such/folder"}, "model.path=no/such/folder"),
        ({"path": None}, "neither model.path nor model.hub_id"),
        ({"load_format": "gguf"}, "model.load_format=gguf.*auto, dummy"),
        ({"attn": "fast"}, "model.attn=fast.*sdpa"),
        ({"attn": "flash_attention_2"}, "needs a CUDA device.*model.attn=sdpa"),
        ({"device_map": "balanced"}, "model.device_map=balanced: must be one of auto or null"),
        ({"device_map": "auto", "load_format": "dummy"}, "built on one device; set it to null"),
        ({"conversation": "llama_3"}, "model.conversation=llama_3.*vicuna_v1"),
        ({"dtype": "int8"}, "run.dtype=int8.*bfloat16"),
        ({"device": "tpu"}, "run.device=tpu"),
    ],
)
def test_wrong_values_are_named_as_they_are_typed(published, settings, message):
    with pytest.raises((ConfigError, ModelError), match=message):
        load(**{"path": published} | settings)


def test_flash_attention_on_a_gpu_wants_half_precision(published, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ConfigError, match=r"flash_attention_2: needs run.dtype=bfloat16 or float16, not float32"):
        load(published, attn="flash_attention_2", device="cuda")


def test_dummy_runs_the_shape_of_a_folders_config(published, tmp_path):
    shutil.copy(published / "config.json", tmp_path)
    first, second = (load(tmp_path, load_format="dummy", dtype="bfloat16") for _ in range(2))
    assert first.revision == "dummy:seed0"
    assert first.model.dtype == torch.bfloat16
    prepared = first.prepare(Request((noise_image(1),) * 2, Prompt("Is it red?", max_new_tokens=5)))
    assert prepared.visual_tokens == 34
    assert prepared.input_ids[0] == 1
    answers = [vlm.decode([prepared], vlm.prefill([prepared], vlm.encode([prepared])), True) for vlm in (first, second)]
    assert answers[0] == answers[1]
    assert answers[0][0].new_tokens == 5
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))


def test_dummy_does_not_touch_the_random_state(published, tmp_path):
    shutil.copy(published / "config.json", tmp_path)
    before = torch.random.get_rng_state()
    load(tmp_path, load_format="dummy")
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(("name", "billions"), [("llava15_7b", 7.063), ("llava15_13b", 13.351)])
def test_shipped_architectures_have_the_published_size(name, billions):
    """Expected: counted by hand from the layer shapes of Llama, CLIP ViT-L/14 and the two-layer projector."""
    config = dummy.read_architecture(name, "llava")
    text, vision = config.text_config, config.vision_config
    width, layers, mlp, vocabulary = text.hidden_size, text.num_hidden_layers, text.intermediate_size, text.vocab_size
    language = 2 * vocabulary * width + layers * (4 * width**2 + 3 * width * mlp + 2 * width) + width
    block = 4 * (1024**2 + 1024) + 2 * 1024 * 4096 + 4096 + 1024 + 4 * 1024
    tower = 1024 + 3 * 14**2 * 1024 + 577 * 1024 + 24 * block + 4 * 1024
    projector = 1024 * width + width + width**2 + width
    assert vision.image_size == 336
    assert memory.memory_needed(config, "float32") == 4 * (language + tower + projector)
    assert (language + tower + projector) / 1e9 == pytest.approx(billions, abs=5e-4)


def test_dummy_tokenizer_has_the_true_vocabulary():
    config = SimpleNamespace(image_token_id=32000, text_config=SimpleNamespace(vocab_size=32064))
    tokenizer = dummy.build_tokenizer(config, CONVERSATIONS["vicuna_v1"])
    assert len(tokenizer) == 32064
    assert tokenizer.convert_tokens_to_ids(["<s>", "</s>", "<image>"]) == [1, 2, 32000]
    text = "What is the colour of the naïve 星? <31999>"
    ids = tokenizer(text).input_ids
    assert ids[0] == 1
    assert max(ids) < 1000  # the numbered fillers are never what a text becomes
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.decode([31999]) == "<31999>"


def test_dummy_vocabulary_too_small_for_bytes_is_refused():
    config = SimpleNamespace(image_token_id=200, text_config=SimpleNamespace(vocab_size=300))
    with pytest.raises(ModelError, match="image_token_id 200 leaves no room"):
        dummy.build_tokenizer(config, CONVERSATIONS["vicuna_v1"])


def test_a_model_that_does_not_fit_is_refused_before_it_is_built(monkeypatch):
    monkeypatch.setattr(memory, "memory_available", lambda *place: int(23.1 * memory.GIB))
    monkeypatch.setattr(dummy, "build_model", lambda *settings: pytest.fail("was built"))
    message = r"llava15_7b in float32 needs 26.3 GiB .*, 23.1 GiB are free on cpu; try .*bfloat16 \(13.2 GiB\) or a GPU"
    with pytest.raises(ModelError, match=message):
        Llava15(name="llava15_7b", hub_id=None, load_format="dummy")


def test_memory_check_leaves_a_tenth_free(published, monkeypatch):
    config = weights.read_config(published, "llava")
    needed = memory.memory_needed(config, "float32")
    assert needed == 2 * memory.memory_needed(config, "float16")
    monkeypatch.setattr(memory, "memory_available", lambda *place: needed * 111 // 100)
    memory.require_memory("small", config, "float32", "cpu")
    monkeypatch.setattr(memory, "memory_available", lambda *place: needed * 109 // 100)
    with pytest.raises(ModelError, match=r"small in float32"):
        memory.require_memory("small", config, "float32", "cpu")


SHIPPED = (
    "internvl3_8b", "llava15_13b", "llava15_7b", "llava_next_vicuna_7b", "llava_onevision_7b", "qwen25_vl_3b",
    "qwen25_vl_7b", "qwen3_vl_2b", "qwen3_vl_4b", "qwen3_vl_8b",
)  # fmt: skip


@pytest.mark.parametrize("name", ["mini_llava", *SHIPPED])
def test_configs_are_the_constructors_keywords(name):
    from semclip_eval.components import component_class, parameters_of

    keys = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"))
    target = component_class("model", keys)
    assert issubclass(target, TransformersVLM)
    del keys["_target_"]
    assert len(keys.pop("description")) > 20
    assert keys["name"] == name
    parameters = parameters_of(target)
    assert set(keys) == set(parameters)
    assert keys["hub_id"] is None or len(keys["revision"]) == 40
    # The config says what the class does by itself.
    defaults = {key: parameters[key].default for key in keys if key not in ("name", "hub_id", "path", "revision")}
    assert {key: keys[key] for key in defaults} == defaults


@pytest.mark.parametrize(
    ("name", "billions"),
    # As the hub announces them for the published weights.
    [
        ("llava15_7b", 7.06), ("llava15_13b", 13.35), ("llava_next_vicuna_7b", 7.06), ("llava_onevision_7b", 8.03),
        ("qwen25_vl_3b", 3.75), ("qwen25_vl_7b", 8.29), ("internvl3_8b", 7.94),
        ("qwen3_vl_2b", 2.13), ("qwen3_vl_4b", 4.44), ("qwen3_vl_8b", 8.77),
    ],
)  # fmt: skip
def test_every_shipped_architecture_is_built_by_its_config_and_has_the_published_size(name, billions):
    from semclip_eval.components import component_class

    target = component_class("model", OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml")))
    config = dummy.read_architecture(name, target.model_type)
    assert memory.count_parameters(config) / 1e9 == pytest.approx(billions, abs=5e-3)


def test_no_architecture_is_left_out():
    from importlib import resources

    files = (resources.files("semclip_eval.models.transformers") / "architectures").iterdir()
    assert {file.name.removesuffix(".json") for file in files} == set(SHIPPED)
    with pytest.raises(ConfigError, match=r"no architecture is shipped for model=llava16 \(there are: .*qwen25_vl_7b"):
        dummy.read_architecture("llava16", "llava")
    with pytest.raises(ConfigError, match=r"model.name=internvl3_8b: its architecture is 'internvl'"):
        dummy.read_architecture("internvl3_8b", "llava")


def announce(monkeypatch, tmp_path, free, sizes):
    """A hub that answers and announces files of those sizes (GiB), and a disk with so much room."""
    import huggingface_hub

    from semclip_eval import hub

    fetched = []
    monkeypatch.setattr(hub, "unreachable_because", lambda: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "not" / "yet" / "there"))
    files = [SimpleNamespace(rfilename=name, size=int(size * memory.GIB)) for name, size in sizes.items()]
    info = SimpleNamespace(sha="e" * 40, siblings=files)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *args, **kwargs: info)
    monkeypatch.setattr(weights.shutil, "disk_usage", lambda place: SimpleNamespace(free=int(free * memory.GIB)))

    def download(*args, local_files_only=False, **kwargs):
        if local_files_only:
            raise OSError("not cached")
        fetched.append(kwargs["allow_patterns"])
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return fetched


SHARDS = {"model-1.safetensors": 9.0, "model-2.safetensors": 4.0, "pytorch_model.bin": 13.0, "config.json": 0.0}


def test_a_download_larger_than_the_disk_is_refused_before_it_begins(monkeypatch, tmp_path):
    fetched = announce(monkeypatch, tmp_path, free=12.5, sizes=SHARDS)
    message = (
        r"big: 13\.0 GiB of lab/big are still to be downloaded, 12\.5 GiB are free in .*there; .*HF_HOME.*model\.path"
    )
    with pytest.raises(ModelError, match=message):
        weights.Checkpoint("big", "lab/big", None, "e" * 40).fetch()
    assert not fetched


def test_only_what_is_not_cached_and_wanted_counts_against_the_disk(monkeypatch, tmp_path):
    import huggingface_hub

    fetched = announce(monkeypatch, tmp_path, free=4.5, sizes=SHARDS)
    cached = tmp_path / "model-1.safetensors"
    cached.touch()
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda hub_id, name, revision: str(cached) if "-1." in name else None
    )
    assert weights.Checkpoint("big", "lab/big", None, "e" * 40).fetch() == tmp_path
    assert "*.safetensors" in fetched[0]
    assert not any("bin" in pattern for pattern in fetched[0])


def test_device_map_auto_gives_the_same_answers(published):
    plain, spread = load(published), load(published, device_map="auto")
    assert spread.answer([ask(spread)])[0].option_losses == pytest.approx(plain.answer([ask(plain)])[0].option_losses)
    assert next(spread.model.parameters()).device == torch.device(spread.device)


def test_memory_of_all_gpus_counts_with_a_device_map(monkeypatch):
    free = {0: 6 * memory.GIB, 1: 7 * memory.GIB}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda place: (free[getattr(place, "index", place)], 0))
    assert memory.memory_available("cuda:1") == 7 * memory.GIB
    assert memory.memory_available("cuda:0", "auto") == 13 * memory.GIB
    config = dummy.read_architecture("llava15_7b", "llava")  # 13.2 GiB in bfloat16
    with pytest.raises(ModelError, match=r"6\.0 GiB are free on cuda:0; try model\.device_map=auto"):
        memory.require_memory("llava15_7b", config, "bfloat16", "cuda:0")
    with pytest.raises(ModelError, match=r"13\.0 GiB are free on cuda:0; try a GPU with more memory"):
        memory.require_memory("llava15_7b", config, "bfloat16", "cuda:0", "auto")


def test_generation_of_no_token_is_refused(published):
    vlm = load(published)
    with pytest.raises(QuestionError, match=r"max_new_tokens=0"):
        vlm.prepare(Request((noise_image(1),), Prompt("Is it red?", max_new_tokens=0)))
