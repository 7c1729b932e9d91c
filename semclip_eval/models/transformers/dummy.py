"""The real architecture with random weights (`model.load_format=dummy`): for latency and memory without a download."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from semclip_eval.errors import ConfigError, ModelError
from semclip_eval.lazy import import_transformers
from semclip_eval.models.transformers.prompts import Conversation

SEED = 0
# Words that get a token of their own, besides the prompt's; anything else costs a token per byte.
COMMON_WORDS = (
    "What is the color of the object? Is there a person in the image? Are there any cars? Where are they, on the left "
    "or on the right side? How many people can you see? Which one does he have in his hand, or what was it made from? "
    "Answer the question using a single word or phrase. Answer with the option's letter from the given choices "
    "directly. Yes No A. B. C. D. red blue green yellow white black brown orange small large woman man dog table"
)


def read_architecture(name: str, model_type: str) -> Any:
    """The transformers config that is shipped for a model's name.

    Raises ConfigError for a name without one, or with one of another `model_type`.
    """
    auto_config = import_transformers().AutoConfig
    folder = resources.files("semclip_eval.models.transformers") / "architectures"
    file = folder / f"{name}.json"
    if not file.is_file():
        names = ", ".join(sorted(entry.name.removesuffix(".json") for entry in folder.iterdir()))
        raise ConfigError(
            f"model.load_format=dummy: no architecture is shipped for model={name} (there are: {names}); "
            "set model.path to a folder with its config.json"
        )
    values = json.loads(file.read_text(encoding="utf-8"))
    if values["model_type"] != model_type:
        raise ConfigError(
            f"model.name={name}: its architecture is '{values['model_type']}', this adapter builds '{model_type}'"
        )
    return auto_config.for_model(**values)


def build_tokenizer(config: Any, conversation: Conversation) -> Any:
    """A byte-level BPE tokenizer of the true vocabulary size, made on the spot from the prompt's own words.

    The placeholder has the config's id. A conversation without special tokens gets <unk>, <s>, </s> as 0, 1, 2 and
    begins with <s>, as Llama's does; those of a chat format stand right below the placeholder. Texts come out about as
    long as with the real tokenizer, which is what prefill time depends on. Raises ModelError where the vocabulary has
    no room for the 256 bytes below the placeholder's id.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    image_id, size = config.image_token_id, config.text_config.vocab_size
    llama = [] if conversation.specials else ["<unk>", "<s>", "</s>"]
    if image_id < 256 + len(llama) + len(conversation.specials):
        raise ModelError(
            f"model.load_format=dummy: image_token_id {image_id} leaves no room for a byte-level vocabulary; "
            "at least 263 is needed. Take a shipped architecture, or model.load_format=auto for real weights."
        )
    draft = Tokenizer(models.BPE())
    draft.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=image_id - len(conversation.specials),
        special_tokens=llama,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    draft.train_from_iterator([conversation.prompt("", views=0), COMMON_WORDS], trainer)
    learned = json.loads(draft.to_str())["model"]
    vocabulary = {**learned["vocab"], conversation.placeholder: image_id}
    first = image_id - len(conversation.specials)
    vocabulary |= {token: first + place for place, token in enumerate(conversation.specials)}
    # The other ids decode to their number: no text is encoded to them, and a random model says them all the time.
    taken = set(vocabulary.values())
    vocabulary |= {f"<{number}>": number for number in range(size) if number not in taken}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[tuple(pair) for pair in learned["merges"]]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = (*llama, *conversation.specials, conversation.placeholder)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in specials])
    if not llama:
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, eos_token=conversation.end, pad_token=conversation.specials[0]
        )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )


def build_image_processor(config: Any) -> Any:
    """CLIP's preprocessing at the tower's image size, on the PIL backend."""
    from transformers import CLIPImageProcessorPil

    side = config.vision_config.image_size
    return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def build_model(config: Any, dtype: str, attention: str, device: str) -> Any:
    """The config's model with seeded random weights, made in `dtype` on `device` without a detour."""
    import torch
    from transformers import AutoModelForImageTextToText

    devices = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices), torch.device(device):
        torch.manual_seed(SEED)
        model = AutoModelForImageTextToText.from_config(
            config, dtype=getattr(torch, dtype), attn_implementation=attention
        )
    return model.eval()
