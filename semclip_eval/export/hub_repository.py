"""A dataset repository on the Hub: what may be pushed to it, and the one commit that does it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from semclip_eval.errors import ConfigError
from semclip_eval.export.dataset_files import is_ours
from semclip_eval.files import shown
from semclip_eval.hub import unreachable_because
from semclip_eval.results.summary import ROLL_UP

KIND = "dataset"


def checked_name(repo: str) -> str:
    """OWNER/NAME, or NAME for one's own; ConfigError where the Hub has no such names."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(f"{shown(repo)}: is no name of a repository: write OWNER/NAME ({error}).") from error
    return repo


def push(repo: str, files: Mapping[str, bytes | Path], public: bool, replace: bool) -> str:
    """Make the repository where there is none, and one commit that makes its content `files`; its address.

    A repository with files that no push writes is refused, and so is one whose visibility is not the one asked for, or
    one with runs that `files` lack, unless `replace` lets go of them. ConfigError for all that, and where the Hub
    cannot be reached or refuses.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

    if (reason := unreachable_because()) is not None:
        raise ConfigError(f"{repo}: the Hub cannot be asked ({reason}). --dry-run shows what would be pushed.")
    if get_token() is None:
        raise ConfigError(
            f"{repo}: no token for the Hub. Log in (hf auth login) or set HF_TOKEN, with the right to write."
        )
    api = HfApi()
    with _explained(repo):
        if "/" not in repo:
            repo = f"{api.whoami()['name']}/{repo}"
        there = _files_of(api, repo, public)
        gone: list[str] = []
        if there is None:
            api.create_repo(repo, repo_type=KIND, private=not public)
        else:
            gone = _surplus(repo, there, files, replace)
        operations: list[Any] = [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()
        ]
        operations += [CommitOperationDelete(path_in_repo=name) for name in gone]
        api.create_commit(repo, operations, commit_message="Results of semclip-eval", repo_type=KIND)
        return f"{api.endpoint}/datasets/{repo}"


def _files_of(api: Any, repo: str, public: bool) -> list[str] | None:
    """The files of the repository, None where there is none; ConfigError where others may (not) see it."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.dataset_info(repo)
    except RepositoryNotFoundError:
        return None
    if info.private and public:
        raise ConfigError(f"{repo}: exists and is private; make it public in its settings, or leave out --public.")
    if not info.private and not public:
        raise ConfigError(f"{repo}: exists and is public: add --public to push there, or name another one.")
    return [each.rfilename for each in info.siblings or ()]


def _surplus(repo: str, there: list[str], files: Mapping[str, bytes | Path], replace: bool) -> list[str]:
    """Files of the repository that go; ConfigError where they are somebody's own, or runs that nobody let go of."""
    # A README alone is somebody's own: a push always writes tables too.
    alone = [name for name in there if name == "README.md" and ROLL_UP not in there]
    foreign = alone or [name for name in there if not is_ours(name)]
    if foreign:
        raise ConfigError(
            f"{repo}: exists and holds other content ({shown(foreign[0])}, {len(there)} files in all), which a push "
            "would overwrite: name another repository."
        )
    gone = [name for name in there if name not in files and name != ".gitattributes"]
    runs = sorted({name.split("/")[-2] for name in gone if name.count("/") == 5})
    if runs and not replace:
        raise ConfigError(
            f"{repo}: holds {len(runs)} runs that this folder does not have (for instance {runs[0]}): add --replace to "
            "let go of them, or name another repository."
        )
    return gone


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        remedy = {
            401: "the Hub does not know the token: log in again (hf auth login) or mend HF_TOKEN",
            403: "the token has no right to write there: take one with write access, or name a repository of your own",
            404: "the Hub does not find it for this token: name a repository of your own",
            429: "the Hub takes no more requests for now: try again later",
        }.get(status or 0, "the Hub refused")
        detail = str(error.server_message or "").strip() or " ".join(str(error).split())[:200]
        raise ConfigError(f"{repo}: {remedy} (HTTP {status}: {detail[:200]}).") from error
    except (OSError, RuntimeError, OfflineModeIsEnabled) as error:
        raise ConfigError(f"{repo}: the push failed ({' '.join(str(error).split())[:300]}); try again.") from error
