"""Work that is tried again where it failed for a reason that may pass, such as a storage that did not answer."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from mixray.errors import MixrayError, StageError, first_line, without_credentials

Result = TypeVar("Result")

TRIES, WAIT_SECONDS = 4, 1.0
"""How often work is tried, and the wait before the second try; it doubles with every further one."""
LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
REFUSALS = ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "NO_SUCH_BUCKET", "SIGNATURE_DOES_NOT_MATCH")
"""Errors of S3 that would come again, as pyarrow's messages name them: their type is OSError."""


@contextmanager
def failures_named() -> Iterator[None]:
    """Raise StageError, which says that running again is safe, in place of an OSError that may pass."""
    try:
        yield
    except OSError as error:
        if isinstance(error, LASTING) or error.errno in (errno.EPIPE, errno.ENOSPC):  # of the output, in the end
            raise
        raise _failure(error) from error


def _failure(error: OSError, times: str = "", where: str | None = None) -> StageError:
    return StageError(
        "reading or writing failed",
        where=where,
        got=f"{without_credentials(first_line(error))}{times}",
        remedy="run again once the storage answers: what is finished is not done again",
    )


def retried(
    work: Callable[[], Result],
    note: Callable[[str], None],
    *,
    where: str | None = None,
    lasting: tuple[type[OSError], ...] = LASTING,
) -> Result:
    """Return what ``work`` returns, which can be repeated safely. ``note`` gets a line for every try that failed.

    Raises the last error: a MixrayError that an OSError has caused as itself, a bare OSError as a StageError about
    ``where``. Errors that would come again, such as a missing file (``lasting``), and all others are raised at once. So
    is a StageError: what raised it has tried as often already.
    """
    for attempt in range(1, TRIES + 1):
        try:
            return work()
        except StageError:
            raise
        except (OSError, MixrayError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(cause, OSError) or isinstance(cause, lasting) or _is_refusal(cause):
                raise
            if attempt == TRIES:
                if error is not cause or isinstance(cause, LASTING):
                    raise
                raise _failure(cause, f" ({TRIES} times)", where) from error
            pause = WAIT_SECONDS * 2 ** (attempt - 1)
            reason = without_credentials(first_line(cause))
            note(f"reading or writing failed and is tried again in {pause:g} s: {reason}")
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def _is_refusal(error: OSError) -> bool:
    return any(f"AWS Error {name}" in str(error) for name in REFUSALS)
