"""The commented run files that ``mixray init`` writes."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Literal

from mixray.errors import InputError


def write_starter(path: str | Path, kind: Literal["mixture", "robust"]) -> None:
    """Write a commented run file of a kind, which runs as it is.

    Raises InputError where the file exists or its folder cannot be written.
    """
    text = (files("mixray.config") / f"starter_{kind}.yaml").read_text(encoding="utf-8")
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise InputError(
            "the file exists already", where=str(path), remedy="choose another name: mixray init NAME.yaml"
        ) from error
    except OSError as error:
        raise InputError("the run file cannot be written", where=str(path), got=error) from error
