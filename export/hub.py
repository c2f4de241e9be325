"""Uploading a folder to the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from dhvt.errors import ExportError

CARD = "README.md"


def push_folder(folder: Path, names: Sequence[str], repository: str, *, public: bool, log: Callable[..., None]) -> None:
    """Uploads files of a folder in one commit. A model card that the repository has already is kept.

    Args:
        names: of the files.
        repository: ``user/name``; a new one is made where there is none.
        public: whether a new repository is public.
        log: prints one line.

    Raises:
        ExportError: there is no network, no permission, or the Hub refuses the files. The folder stays.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, errors

    http_error: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]  # of whichever HTTP library it uses

    api = HfApi(library_name="dhvt-serve")
    try:
        repository = api.create_repo(repository, private=not public, exist_ok=True).repo_id
        files = [*names]
        if api.file_exists(repository, CARD):
            files.remove(CARD)
            log(f"{CARD} of {repository} is kept as it is; compare it with {folder / CARD}")
        operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in files]
        commit = api.create_commit(repository, operations, commit_message="Add the model")
    except (http_error, OSError, ValueError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(
            f"{folder} is written, but cannot be pushed to {repository} at {api.endpoint}: {reason[0]}; "
            "check the network, and the token with hf auth whoami"
        ) from error
    log(f"pushed to {commit.repo_url}")
