"""A results folder as the files of a dataset repository: the run folders as they are, and tables for `datasets`.

What is pushed is a results folder again: downloaded, it can be reported, compared and chosen from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semclip_eval.errors import ConfigError, DataError
from semclip_eval.json_output import typed_row
from semclip_eval.lazy import library
from semclip_eval.report.runs import CONFIG, ENVIRONMENT, FinishedRun
from semclip_eval.results.columns import SUMMARY_NAMES
from semclip_eval.results.records import SAMPLES
from semclip_eval.results.summary import CATEGORIES, ROLL_UP, SUMMARY, csv_text

if TYPE_CHECKING:
    import pyarrow as pa
else:
    pa = library("pyarrow")

RUN_FILES = (CONFIG, ENVIRONMENT, SUMMARY, CATEGORIES, SAMPLES)
SAMPLE_TABLES, IMAGE_TABLES, RUN_TABLE = "samples", "images", "runs.parquet"
# What of a run's row every sample repeats, so that a table of all samples can be grouped.
OF_THE_RUN = ("run_id", "profile", "benchmark", "split", "protocol", "model", "selector", "crops", "psi", "mode")
# Images in one piece of a Parquet file: each piece is held in memory.
PIECE = 50


def run_files(runs: Sequence[FinishedRun], results: Path) -> dict[str, Path]:
    """By place in the repository the files of the run folders."""
    return {
        f"{run.folder.relative_to(results).as_posix()}/{name}": run.folder / name for run in runs for name in RUN_FILES
    }


def roll_up(runs: Sequence[FinishedRun]) -> bytes:
    """The rows of the runs as `runs.csv`."""
    return csv_text(SUMMARY_NAMES, [run.row for run in runs]).encode()


def run_table(runs: Sequence[FinishedRun]) -> bytes:
    """The same as Parquet, numbers as numbers: `datasets` reads all tables of a repository in one format."""
    return _parquet(pa.Table.from_pylist([typed_row(run.row) for run in runs]))


def sample_tables(runs: Sequence[FinishedRun]) -> dict[str, bytes]:
    """By place in the repository a Parquet file for each run: its records, all with the same columns.

    `truth` is the index of the right option, `references` are the right texts; the columns of `OF_THE_RUN` come first.
    DataError where records of the runs hold values of different kinds in one place.
    """
    try:
        tables = [pa.Table.from_pylist([_row(record, run.row) for record in run.records]) for run in runs]
        schema = pa.unify_schemas([table.schema for table in tables], promote_options="permissive")
        tables = [
            pa.Table.from_pylist([_row(record, run.row) for record in run.records], schema=schema) for run in runs
        ]
    except pa.ArrowException as error:
        raise DataError(
            f"samples.jsonl: values of different kinds stand in one place and make no table "
            f"({' '.join(str(error).split())[:200]}); push results of one kind."
        ) from error
    return {f"{SAMPLE_TABLES}/{run.id}.parquet": _parquet(table) for run, table in zip(runs, tables, strict=True)}


def image_table(place: Path, benchmark: str, images: Iterable[tuple[str, Any]]) -> None:
    """Write a Parquet file of (image id, PIL image) that `datasets` shows as images; PNG, so that no pixel changes."""
    import io

    import pyarrow.parquet as parquet

    text = {"dtype": "string", "_type": "Value"}
    features = {"benchmark": text, "image_id": text, "image": {"_type": "Image"}}
    schema = pa.schema(
        [("benchmark", pa.string()), ("image_id", pa.string()),
         ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )  # fmt: skip
    with parquet.ParquetWriter(place, schema) as writer:
        piece: list[dict[str, Any]] = []
        for identity, image in images:
            stream = io.BytesIO()
            image.save(stream, format="PNG")
            shown = {"bytes": stream.getvalue(), "path": None}
            piece.append({"benchmark": benchmark, "image_id": _clean(identity), "image": shown})
            if len(piece) == PIECE:
                writer.write_table(pa.Table.from_pylist(piece, schema=schema))
                piece = []
        writer.write_table(pa.Table.from_pylist(piece, schema=schema))


def is_ours(path: str) -> bool:
    """Could a push have written this file of a repository?"""
    parts = path.split("/")
    if len(parts) == 1:
        return path in ("README.md", ".gitattributes", ROLL_UP, RUN_TABLE)
    if len(parts) == 2:
        return parts[0] in (SAMPLE_TABLES, IMAGE_TABLES) and path.endswith(".parquet")
    return len(parts) == 6 and parts[-1] in RUN_FILES


def refuse_secrets(files: Mapping[str, bytes | Path], runs: Sequence[FinishedRun]) -> None:
    """ConfigError where a file holds the key of one of the environment variables that hold keys; it is not repeated."""
    from semclip_eval.credentials import known_keys

    keys = known_keys(str(run.config["model"].get("api_key_env") or "") for run in runs)
    if not keys:
        return
    for name, content in files.items():
        data = content.read_bytes() if isinstance(content, Path) else content
        for variable, key in keys.items():
            if key.encode() in data:
                raise ConfigError(
                    f"{name}: holds the key of the environment variable {variable}; nothing was pushed. Take it out "
                    "of the file, or make the run again."
                )


def _row(record: Mapping[str, Any], run: Mapping[str, str]) -> dict[str, Any]:
    truth, options = record["truth"], record["options"]
    index = truth if options else None
    references = [options[truth]] if options else truth if isinstance(truth, list) else [truth]
    own = {name: _clean(value) for name, value in record.items() if name != "truth"}
    told = {name: run[name] or None for name in OF_THE_RUN}
    return {**told, **own, "truth": index, "references": [_clean(str(each)) for each in references]}


def _clean(value: Any) -> Any:
    """The value as a table can hold it: no half surrogate pairs, and nothing in place of an empty mapping."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {key: _clean(inner) for key, inner in value.items()} or None
    if isinstance(value, list):
        return [_clean(inner) for inner in value]
    return value


def _parquet(table: pa.Table) -> bytes:
    import pyarrow.parquet as parquet

    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())
