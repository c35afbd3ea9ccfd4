"""Everything about the inputs that can be checked by looking, before anything is started."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mixray.config.schema import RunConfig
from mixray.data.pools import Pool, pools_of
from mixray.data.reading.files import check_json_lines, check_parquet
from mixray.data.reading.hugging_face import HubUnreachableError, check_local
from mixray.data.reading.parts import list_pool
from mixray.data.text.tokenizer import existing_folder
from mixray.errors import InputError

Checked = TypeVar("Checked")
Result = TypeVar("Result")


def check_inputs(config: RunConfig) -> dict[str, int | None]:
    """Bytes as stored of every pool ("source NAME", "target NAME"); None where only reading would tell.

    Looks at the list of files and at the columns of the first one. A data set on the hub is looked up, not downloaded,
    and where the hub cannot be reached there is nothing to say about it.
    Raises InputError: the one there is, or one that holds all.
    """
    pools = pools_of(config)
    errors: list[InputError] = []
    check = _check_pool if config.examples is None else _size
    sizes = {pool.label: _gather(errors, check, pool) for pool in pools}
    if config.tokenizer is not None and config.tokenizer.path is not None:
        _gather(errors, existing_folder, config.tokenizer)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise InputError("\n\n".join([f"{len(errors)} inputs are wrong", *map(str, errors)]))
    return sizes


def _check_pool(pool: Pool) -> int | None:
    try:
        listing = list_pool(pool)
    except HubUnreachableError:
        return None
    if listing.dataset is not None:
        if listing.dataset.is_local:
            check_local(listing.dataset, pool)
    elif pool.config.reader == "jsonl":
        check_json_lines(listing.files[0], pool)
    elif pool.config.reader == "parquet":
        check_parquet(listing.files[0], pool)
    return listing.size_bytes


def _size(pool: Pool) -> int | None:
    """Of examples, whose columns ``look_ahead`` checks."""
    return list_pool(pool).size_bytes


def _gather(errors: list[InputError], check: Callable[[Checked], Result], item: Checked) -> Result | None:
    try:
        return check(item)
    except InputError as error:
        errors.append(error)
        return None
