"""Looking things up on the Hugging Face hub. Offline, what was downloaded before is found again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from mixray.errors import InputError, first_line


class HubUnreachableError(InputError):
    """The hub gave no answer, so that nothing can be said about what is on it."""


def snapshot(
    name: str, kind: Literal["model", "dataset"], revision: str | None, patterns: Sequence[str], where: str
) -> Path:
    """The local folder of a repository's files that match; the folder's name is the commit.

    Raises InputError if the hub does not have it, HubUnreachableError if there is no telling.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(name, repo_type=kind, revision=revision, allow_patterns=list(patterns)))
    except (HfHubHTTPError, HFValidationError) as error:
        raise InputError(
            f"the {kind} is not found on the Hugging Face hub",
            where=where,
            got=f"{name} ({first_line(error)})",
            wanted="a folder, or a name on the hub that this user may read",
        ) from error
    except OSError as error:
        raise HubUnreachableError(
            "the Hugging Face hub cannot be reached",
            where=where,
            got=f"{name} ({first_line(error)})",
            wanted="a folder, or a way to reach the hub",
            remedy="what was downloaded before is found offline with HF_HUB_OFFLINE=1",
        ) from error
