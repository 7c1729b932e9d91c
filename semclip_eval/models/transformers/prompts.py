"""How each conversation format puts a question to the model, to the byte. The only place where templates live."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

IMAGE = "<image>"


class Segment(NamedTuple):
    """A stretch of a prompt: plain `text`, one `special` token, or the placeholder of one `image`."""

    kind: Literal["text", "special", "image"]
    text: str


@dataclass(frozen=True)
class Conversation:
    """One turn: `before` + `image` per view + `lead` + question + `after`; the answer is `answer_lead` + text + `end`.

    `placeholder` is what stands for a view's visual tokens in `image`. `specials` are the strings of the template, and
    those that the processor puts around a view, that the tokenizer holds as single tokens; in a question they are plain
    text. `end` None means the tokenizer's own end token.
    """

    before: str
    image: str
    after: str
    lead: str = ""
    answer_lead: str = ""
    placeholder: str = IMAGE
    specials: tuple[str, ...] = ()
    end: str | None = None

    def prompt(self, text: str, views: int) -> str:
        """The whole prompt as one string, with an unexpanded placeholder per view."""
        return self.before + self.image * views + self.lead + text + self.after

    def text_start(self, views: int) -> int:
        """At which character of `prompt` the question begins."""
        return len(self.before) + len(self.image) * views + len(self.lead)

    def segments(self, text: str, views: int, specials: tuple[str, ...] = ()) -> list[Segment]:
        """The prompt in stretches, whose texts joined are `prompt`; neighbouring texts are one stretch.

        Only the template is searched for special tokens and placeholders: a question's own '<image>' or '<|im_end|>'
        stays text. `specials` are the only ones that the question is searched for.
        """
        marks = re.compile("|".join(re.escape(mark) for mark in (self.placeholder, *self.specials)))
        result: list[Segment] = []

        def add_text(piece: str) -> None:
            if result and result[-1].kind == "text":
                result[-1] = Segment("text", result[-1].text + piece)
            elif piece:
                result.append(Segment("text", piece))

        def add_marked(piece: str, marks: re.Pattern[str]) -> None:
            start = 0
            for found in marks.finditer(piece):
                add_text(piece[start : found.start()])
                result.append(Segment("image" if found[0] == self.placeholder else "special", found[0]))
                start = found.end()
            add_text(piece[start:])

        add_marked(self.before + self.image * views + self.lead, marks)
        if specials:
            add_marked(text, re.compile("|".join(map(re.escape, specials))))
        else:
            add_text(text)
        add_marked(self.after, marks)
        return result


CHATML = ("<|im_start|>", "<|im_end|>")

CONVERSATIONS: dict[str, Conversation] = {
    # llava/conversation.py `conv_vicuna_v1` of github.com/haotian-liu/LLaVA, as its evaluation of LLaVA-1.5 and 1.6
    # (LLaVA-NeXT) uses it: no space after "ASSISTANT:"; the answer begins with one and ends with </s>. The chat
    # template of the llava-hf exports gives the same bytes where the system sentence comes in as a system message.
    "vicuna_v1": Conversation(
        before=(
            "A chat between a curious user and an artificial intelligence assistant. "
            "The assistant gives helpful, detailed, and polite answers to the user's questions. USER: "
        ),
        image=IMAGE + "\n",
        after=" ASSISTANT:",
        answer_lead=" ",
    ),
    # The chat template that Qwen publishes with Qwen2.5-VL (chat_template.json), for one user turn of images and text.
    "qwen25_vl": Conversation(
        before="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
        image="<|vision_start|><|image_pad|><|vision_end|>",
        after="<|im_end|>\n<|im_start|>assistant\n",
        placeholder="<|image_pad|>",
        specials=(*CHATML, "<|vision_start|>", "<|vision_end|>"),
        end="<|im_end|>",
    ),
    # The chat template that Qwen publishes with Qwen3-VL-*-Instruct: no system turn unless one is given.
    "qwen3_vl": Conversation(
        before="<|im_start|>user\n",
        image="<|vision_start|><|image_pad|><|vision_end|>",
        after="<|im_end|>\n<|im_start|>assistant\n",
        placeholder="<|image_pad|>",
        specials=(*CHATML, "<|vision_start|>", "<|vision_end|>"),
        end="<|im_end|>",
    ),
    # The chat template of the llava-hf export of LLaVA-OneVision (chat_template.json): a space after the role, no
    # system sentence, no line break between turns.
    "llava_onevision": Conversation(
        before="<|im_start|>user ",
        image=IMAGE,
        lead="\n",
        after="<|im_end|><|im_start|>assistant\n",
        specials=CHATML,
        end="<|im_end|>",
    ),
    # llava/conversation.py `qwen_1_5` of github.com/LLaVA-VL/LLaVA-NeXT: what LLaVA-OneVision was trained with.
    "qwen_1_5": Conversation(
        before="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
        image=IMAGE + "\n",
        after="<|im_end|>\n<|im_start|>assistant\n",
        specials=CHATML,
        end="<|im_end|>",
    ),
    # The chat template of the HF format of InternVL3 (transformers, convert_internvl_weights_to_hf.py). The processor
    # puts <img> and </img> around a view's tokens.
    "internvl3": Conversation(
        before="<|im_start|>user\n",
        image="<IMG_CONTEXT>\n",
        after="<|im_end|>\n<|im_start|>assistant\n",
        placeholder="<IMG_CONTEXT>",
        specials=(*CHATML, "<img>", "</img>"),
        end="<|im_end|>",
    ),
}
