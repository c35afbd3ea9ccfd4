"""The arguments that several commands share, and how a shell completes them."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Annotated

import typer

from mixray.config.section import RunFile


def complete_run_file(incomplete: str) -> list[str]:
    """Return the run files, here and one folder down, that begin so. Of none, the shell completes file names."""
    folder, _, _ = incomplete.rpartition("/")
    inside = f"{folder}/" if folder or incomplete.startswith("/") else ""
    paths = [path for pattern in ("*.y*ml", "*/*.y*ml") for path in glob.glob(glob.escape(inside) + pattern)]
    return sorted(path for path in paths if path.startswith(incomplete) and _is_run_file(path))


def _is_run_file(path: str) -> bool:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return any(line.startswith(("sources:", "data:")) for line in text.splitlines())


def complete_run_folder(incomplete: str) -> list[str]:
    """Return the run folders in the default storage that begin so. Of none, the shell completes file names."""
    storage: str = RunFile.model_fields["storage"].default
    folders = [path.rpartition("/")[0] for path in glob.glob(f"{storage}/runs/*/config.yaml")]
    if not incomplete.startswith("./"):
        folders = [folder.removeprefix("./") for folder in folders]
    return sorted(folder for folder in folders if folder.startswith(incomplete))


def complete_key(incomplete: str) -> list[str]:
    from mixray.config.fields import KINDS, all_keys

    return sorted({key for kind in KINDS.values() for key in all_keys(kind) if key.startswith(incomplete)})


FilePath = Annotated[str, typer.Argument(metavar="FILE", help="the run file (YAML)", autocompletion=complete_run_file)]
RunFolder = Annotated[
    str,
    typer.Argument(
        metavar="RUN_FOLDER",
        help="a run  [default: the latest in ./mixray-runs]",
        autocompletion=complete_run_folder,
    ),
]
Mechanisms = Annotated[
    bool, typer.Option("--mechanisms", help="add the measures that explain a comparison of robust training")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="override keys, e.g. seed=1 proxy.tokens=5000")
]
Address = Annotated[
    str | None,
    typer.Option(help="a Ray cluster's address, or its dashboard's, http://...  [default: a local one]"),
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object on stdout")]
