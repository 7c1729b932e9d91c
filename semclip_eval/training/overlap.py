"""Test images are not for training: which ones there are, and which training questions look at one of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from semclip_eval.benchmarks.base import Benchmark
from semclip_eval.errors import ConfigError, QuestionError, SemclipEvalError
from semclip_eval.results.records import write_atomically
from semclip_eval.types import Question


def image_digest(image: Image.Image) -> str:
    """Sixteen hex digits of the decoded pixels (RGB) and their size: the same for a copy under another name."""
    digest = hashlib.sha256(f"{image.width}x{image.height}\0".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()[:16]


def test_digests(benchmark: Benchmark, cache: Path) -> set[str]:
    """Digests of all images of a benchmark, kept in `cache` under its data's revision.

    Raises what reading the questions raises; an image that cannot be read is left out.
    """
    questions = benchmark.questions()
    name = hashlib.sha256(f"{benchmark.name}\0{benchmark.split}\0{benchmark.dataset_revision}".encode()).hexdigest()
    file = cache / "test-images" / f"{benchmark.name}-{name[:16]}.json"
    if file.is_file():
        return set(json.loads(file.read_text(encoding="utf-8")))
    first = {question.image_id: question for question in questions}
    digests = sorted(set(_digests(first.values())))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(digests))
    return set(digests)


def _digests(questions: Iterable[Question]) -> Iterable[str]:
    for question in questions:
        try:
            yield image_digest(question.load_image())
        except QuestionError:
            continue


def refuse_test_images(
    images: Mapping[str, str], questions: Sequence[Question], tests: Mapping[str, Callable[[], Benchmark]], cache: Path
) -> tuple[dict[str, int], dict[str, str]]:
    """ConfigError where a training question is about an image of a test benchmark.

    images: the digest of each training question's image, by question id. tests: make the test benchmarks, by name.
    Returns how many images of each were compared, and for those whose data are not at hand why not.
    """
    compared: dict[str, int] = {}
    missing: dict[str, str] = {}
    for name, make in tests.items():
        try:
            known = test_digests(make(), cache)
        except SemclipEvalError as error:
            missing[name] = str(error).splitlines()[0]
            continue
        compared[name] = len(known)
        found = [question for question in questions if images.get(question.id) in known]
        if found:
            raise ConfigError(
                f"train-psi: {len(found)} of {len(questions)} training questions are about test images of {name} "
                f"(the first is question {found[0].id}). Train on another split or folder: benchmark.split=..., "
                "benchmark.path=..., for the miniature benchmark.path=mini://vstar-train."
            )
    return compared, missing
