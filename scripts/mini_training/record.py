"""The training log: one JSON object a line, flushed as it is written."""

import json
from pathlib import Path


class Log:
    """Appends to `<folder>/log.jsonl` under a stage name and echoes to the terminal."""

    def __init__(self, folder: Path, stage: str) -> None:
        self._path = folder / "log.jsonl"
        self._stage = stage

    def write(self, **values: object) -> None:
        rounded = {key: round(value, 4) if isinstance(value, float) else value for key, value in values.items()}
        line = json.dumps({"stage": self._stage, **rounded})
        print(line, flush=True)
        with self._path.open("a") as file:
            file.write(line + "\n")
