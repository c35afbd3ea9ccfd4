"""How an error quotes other errors and places."""

from __future__ import annotations

import re


def said(error: Exception) -> str:
    """The first line of an error's text."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def shown(location: str) -> str:
    """A path or pattern; of a URI, without its options and credentials."""
    return re.sub(r"://[^/@]*@", "://", location.partition("?")[0]) if "://" in location else location
