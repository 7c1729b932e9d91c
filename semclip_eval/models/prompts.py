"""How each conversation format puts a question to the model, to the byte. The only place where templates live."""

from __future__ import annotations

from dataclasses import dataclass

IMAGE = "<image>"


@dataclass(frozen=True)
class Conversation:
    """One turn: `before` + `image` per view + question + `after`; the answer is `answer_lead` + text + end token."""

    before: str
    image: str
    after: str
    answer_lead: str

    def prompt(self, text: str, views: int) -> str:
        """The whole prompt as one string, with an unexpanded placeholder per view."""
        return self.before + self.image * views + text + self.after

    def text_chunks(self, text: str, views: int) -> list[str]:
        """The prompt's text around the placeholders: views + 1 pieces; a question's own '<image>' stays text."""
        left, right = self.image.split(IMAGE)
        if views == 0:
            return [self.before + text + self.after]
        return [self.before + left, *[right + left] * (views - 1), right + text + self.after]


CONVERSATIONS: dict[str, Conversation] = {
    # llava/conversation.py `conv_vicuna_v1` of github.com/haotian-liu/LLaVA, as its LLaVA-1.5 evaluation uses it:
    # no space after "ASSISTANT:"; the answer begins with one and ends with </s>.
    "vicuna_v1": Conversation(
        before=(
            "A chat between a curious user and an artificial intelligence assistant. "
            "The assistant gives helpful, detailed, and polite answers to the user's questions. USER: "
        ),
        image=IMAGE + "\n",
        after=" ASSISTANT:",
        answer_lead=" ",
    ),
}
