"""The whole program with LLaVA-1.5 at its true image and patch size, against the repository's steps in plain calls."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.family_small import check_program
from tests.llava_small import save_llama_style

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)
MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = save_llama_style(tmp_path_factory.mktemp("llama"))
    config = json.loads((place / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 4096  # as published; five views have 2880 tokens
    (place / "config.json").write_text(json.dumps(config))
    return place


class Reference:
    """llava/mm_utils.py and llava/eval/model_vqa_loader.py of github.com/haotian-liu/LLaVA, step by step."""

    def __init__(self, folder):
        from transformers import AutoTokenizer, LlavaForConditionalGeneration

        self.model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.processor = SimpleNamespace(tokenizer=self.tokenizer, image_token="<image>")

    def ids(self, asked):
        prompt = f"{SYSTEM}USER: {('<image>' + chr(10)) * len(asked.images)}{asked.prompt.text} ASSISTANT:"
        first, *others = [self.tokenizer(piece).input_ids for piece in prompt.split("<image>")]
        image = self.tokenizer.convert_tokens_to_ids("<image>")
        return first + [token for piece in others for token in [image] * 576 + piece[1:]]

    def pixels(self, asked):
        views = []
        for image in asked.images:
            side = max(image.size)
            square = Image.new("RGB", (side, side), tuple(int(value * 255) for value in MEAN))
            square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
            values = np.asarray(square.resize((336, 336), Image.Resampling.BICUBIC)) / 255
            views.append(((values - MEAN) / STD).transpose(2, 0, 1))
        return torch.tensor(np.stack(views), dtype=torch.float32)

    @torch.no_grad()
    def greedy(self, asked):
        ids = torch.tensor([self.ids(asked)])
        made = self.model.generate(
            input_ids=ids, pixel_values=self.pixels(asked), do_sample=False, max_new_tokens=asked.prompt.max_new_tokens
        )
        return made[0, ids.shape[1] :].tolist()

    @torch.no_grad()
    def losses(self, asked):
        prompt, pixels, result = self.ids(asked), self.pixels(asked), []
        for option in asked.prompt.continuations:
            # After a word, as in the prompt: alone, the tokenizer would put a space of its own before it.
            answer = self.tokenizer(f"x {option}</s>").input_ids[len(self.tokenizer("x").input_ids) :]
            logits = self.model(input_ids=torch.tensor([[*prompt, *answer]]), pixel_values=pixels).logits[0].double()
            result.append(float(torch.nn.functional.cross_entropy(logits[len(prompt) - 1 : -1], torch.tensor(answer))))
        return result


def test_the_program_answers_as_the_llava_repository_does_with_every_selector_and_protocol(folder, tmp_path):
    check_program("llava15_7b", folder, Reference(folder), tmp_path)
