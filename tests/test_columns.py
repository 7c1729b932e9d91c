"""The columns are declared once: the contract's names in the contract's order, and the documentation's tables."""

from __future__ import annotations

from pathlib import Path

from semclip_eval.results.columns import CATEGORY_COLUMNS, SUMMARY_COLUMNS, SUMMARY_NAMES, markdown_table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "files.md"
# What outsiders rely on: new columns are appended, none is renamed or moved.
PROMISED = (
    "run_id profile benchmark split protocol model model_revision dataset_revision selector crops psi uses_truth mode "
    "n n_scored n_unparsed n_error metric accuracy accuracy_ci_low accuracy_ci_high chance_accuracy hit_rate "
    "views_mean visual_tokens_mean text_tokens_mean new_tokens_mean e2e_ms_p50 e2e_ms_p90 e2e_ms_p99 load_ms_p50 "
    "select_ms_p50 vision_ms_p50 prefill_ms_p50 decode_ms_p50 ttft_ms_p50 tpot_ms_p50 questions_per_s peak_memory_mib "
    "device dtype attn batch_size seed wall_s package_version git_commit started_at"
).split()


def test_the_promised_columns_come_first_and_in_order() -> None:
    assert list(SUMMARY_NAMES[: len(PROMISED)]) == PROMISED
    assert len(set(SUMMARY_NAMES)) == len(SUMMARY_NAMES)
    assert {"forwards_mean", "encoded_tokens_mean"} < set(SUMMARY_NAMES)


def test_the_unit_stands_in_the_name() -> None:
    for column in SUMMARY_COLUMNS:
        assert ("_ms" in column.name) == (column.unit == "ms"), column.name
        assert column.name.endswith("_mib") == (column.unit == "MiB"), column.name


def test_the_page_of_the_files_has_the_tables() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert markdown_table(SUMMARY_COLUMNS) in page
    assert markdown_table(CATEGORY_COLUMNS) in page
