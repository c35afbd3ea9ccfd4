"""Where a pool's files are: globs, ``{stdlib}``, ``{package:NAME}`` and URIs become a sorted list of files.

``*`` and ``?`` and ``[...]`` stay within one path component, ``**`` spans any number of folders; hidden files are
files like others. A URI is anything that ``pyarrow.fs.FileSystem.from_uri`` opens; after ``?`` come its options, so
``?`` is not a wildcard there.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import re
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pyarrow import fs as pafs

from mixray.errors import InputError, canonical_uris, first_line, without_credentials

# fsspec's ArrowFSWrapper.glob was tried in place of this module. It lists one folder at a time (2,000 files on S3: 7 s
# in place of 2 s), enters folders that are left out ({stdlib}: 4.0 s in place of 0.07 s), walks through links in
# circles (41,041 paths for 1,002 files), and its times lack the nanoseconds that are part of a file's identity.
LOCAL = "file:///"
WILDCARD = re.compile(r"[*?\[]")
ESCAPED = re.compile(r"\[([*?\[])\]")
FilesInFolder = Callable[[Sequence[str]], Iterable[str]]
"""Says which of the files below a folder are meant, by their paths relative to it."""
PLACEHOLDER = re.compile(r"\{([^}]*)\}")


@dataclass(frozen=True, order=True, slots=True)
class SourceFile:
    """A file to read: ``path`` within the file system that ``filesystem`` (a URI) names; size in bytes.

    ``changed_ns``: when a local file last changed. Unlike the modification time nobody can set it, so a file whose
    content has changed is noticed even where its size and time are those of before. Object stores state one time, which
    nobody can set either.
    """

    filesystem: str
    path: str
    size: int
    mtime_ns: int
    changed_ns: int = 0

    @property
    def identity(self) -> list[object]:
        """What changes whenever the file may hold something else. Users and the order of options are no part of it."""
        return [canonical_uris(self.filesystem), self.path, self.size, self.mtime_ns, self.changed_ns]

    @property
    def location(self) -> str:
        """The place as a person would type it, without options and credentials."""
        if self.filesystem == LOCAL:
            return self.path
        return f"{self.filesystem.partition('://')[0]}://{self.path}"


def without_options(location: str) -> str:
    """Return a path or pattern as an error shows it: of a URI, without its options and credentials."""
    return without_credentials(location.partition("?")[0]) if "://" in location else location


@lru_cache(maxsize=32)
def open_filesystem(uri: str) -> tuple[Any, str]:
    """Return the pyarrow file system of a URI and the URI's path in it. Raises InputError if it cannot be opened."""
    try:
        filesystem, path = pafs.FileSystem.from_uri(uri)
    except (OSError, ValueError, ImportError, NotImplementedError) as error:
        raise InputError(
            "a location cannot be opened",
            got=f"{without_options(uri)} ({first_line(error).replace(uri, without_options(uri))})",
            wanted="a local path or a URI such as s3://bucket/prefix/*.jsonl",
        ) from error
    return filesystem, path


def find_files(
    patterns: Iterable[str], exclude: Iterable[str], *, in_folder: FilesInFolder | None = None
) -> list[SourceFile]:
    """Return the files of all patterns: in the order of the patterns, sorted by path within each, none twice.

    ``exclude``: globs; one that does not start at a root (``/``, ``~``, ``{...}``, a URI) matches the end of a path.
    ``in_folder``: what a pattern that names a folder stands for; None: a folder is not a file.
    """
    leave_out = list(exclude)
    unique: dict[tuple[str, str], SourceFile] = {}
    for pattern in patterns:
        left_out = _excluder([*leave_out, *_implied_excludes(pattern)])
        for expanded in expand(pattern):
            try:
                files = sorted(_matches(expanded, left_out, in_folder), key=lambda file: file.path)
            except OSError as error:
                raise InputError(
                    "a location cannot be listed", got=f"{without_options(expanded)} ({first_line(error)})"
                ) from error
            for file in files:
                unique.setdefault((file.filesystem, file.path), file)
    return list(unique.values())


def expand(pattern: str) -> list[str]:
    """Replace ``{stdlib}``, ``{package:NAME}`` and ``~``; local patterns become absolute.

    Raises InputError for another placeholder or a package that is not installed.
    """
    match = PLACEHOLDER.search(pattern)
    if match:
        folders = _placeholder(match[1])
        return [path for folder in folders for path in expand(pattern.replace(match[0], glob.escape(folder), 1))]
    if "://" in pattern:
        return [pattern]
    return [os.path.abspath(os.path.expanduser(pattern))]


def glob_regex(pattern: str) -> re.Pattern[str]:
    """Return the regular expression that whole paths match. Raises InputError for a pattern that is not a glob."""
    *folders, last = pattern.split("/")
    parts = [r"(?:[^/]*/)*" if folder == "**" else _component(folder) + "/" for folder in folders]
    try:
        return re.compile("".join([*parts, ".+" if last == "**" else _component(last)]), re.DOTALL)
    except re.error as error:
        raise InputError("a pattern cannot be read", got=f"{pattern} ({error})", wanted="a glob") from error


def _component(pattern: str) -> str:
    return "".join(_symbol(symbol) for symbol in re.findall(r"(?s)\[!?[^\]]+\]|.", pattern))


def _symbol(symbol: str) -> str:
    if len(symbol) == 1:
        return {"*": "[^/]*", "?": "[^/]"}.get(symbol, re.escape(symbol))
    negated = symbol.startswith("[!") and len(symbol) > 3
    body = re.sub(r"([\\^\[&~|])", r"\\\1", symbol[2 if negated else 1 : -1])
    return f"[{'^' if negated else ''}{body}]"


def _placeholder(name: str) -> list[str]:
    if name == "stdlib":
        return [sysconfig.get_paths()["stdlib"]]
    if name.startswith("package:"):
        return _package_folders(name.removeprefix("package:"))
    raise InputError(
        "a pattern has an unknown placeholder",
        got=f"{{{name}}}",
        wanted="{stdlib} or {package:NAME}",
        remedy="give several patterns as a list instead of {a,b}" if "," in name else None,
    )


def _package_folders(name: str) -> list[str]:
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "a package is not installed",
            got=f"{{package:{name}}}",
            wanted="the import name of an installed package that is a folder",
            remedy=f"install it (pip install {name}) or name another one",
        )
    return list(spec.submodule_search_locations)


def _implied_excludes(pattern: str) -> list[str]:
    installed = ("site-packages", "dist-packages")
    return [f"{{stdlib}}/{folder}/**" for folder in installed] if "{stdlib}" in pattern else []


def _excluder(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Return a function that says whether a path, or with a final ``/`` a whole folder, is left out."""
    rooted = re.compile(r"[/~{]|[^/]*://")
    whole = [_open(path)[2] for pattern in patterns if rooted.match(pattern) for path in expand(pattern)]
    globs = whole + [f"**/{pattern.removeprefix('./')}" for pattern in patterns if not rooted.match(pattern)]
    files = [glob_regex(pattern) for pattern in globs]
    folders = [glob_regex(pattern.removesuffix("**")) for pattern in globs if pattern.endswith("/**")]
    return lambda path: any(regex.fullmatch(path) for regex in (folders if path.endswith("/") else files))


def _open(pattern: str) -> tuple[Any, str, str]:
    """Return an expanded pattern's file system, that file system's URI, and the pattern within it."""
    if "://" not in pattern:
        return open_filesystem(LOCAL)[0], LOCAL, pattern
    location, question, options = pattern.partition("?")
    scheme, _, rest = location.partition("://")
    authority, slash, path = rest.partition("/")
    uri = f"{scheme}://{authority}{slash if scheme == 'file' else ''}{question}{options}"
    filesystem, root = open_filesystem(uri)
    return filesystem, uri, f"{root.rstrip('/')}/{path}"


def _matches(pattern: str, left_out: Callable[[str], bool], in_folder: FilesInFolder | None) -> Iterator[SourceFile]:
    filesystem, uri, path = _open(pattern)
    base, rest = _split_fixed(path)
    info = filesystem.get_file_info(base or "/")
    if info.type == pafs.FileType.File and not rest and not left_out(base):
        changed_ns = os.stat(base).st_ctime_ns if uri == LOCAL else 0
        yield SourceFile(uri, base, info.size, info.mtime_ns or 0, changed_ns)
    if info.type != pafs.FileType.Directory or not (rest or in_folder):
        return
    list_folder, recursive = _list_local if uri == LOCAL else _list_remote, "/" in (rest or "/") or rest == "**"
    listed = (file for file in list_folder(filesystem, base, recursive, left_out) if not left_out(file[0]))
    if rest or in_folder is None:
        regex = glob_regex(f"{glob.escape(base)}/{rest}")
        yield from (SourceFile(uri, *file) for file in listed if regex.fullmatch(file[0]))
    else:
        prefix = f"{base}/"
        files = {path.removeprefix(prefix): SourceFile(uri, path, *times) for path, *times in listed}
        yield from (files[path] for path in in_folder(list(files)))


def _split_fixed(path: str) -> tuple[str, str]:
    """Return the leading folders without a wildcard, unescaped, and the rest."""
    folders = path.rstrip("/").split("/")
    wild = [bool(WILDCARD.search(ESCAPED.sub("", folder))) for folder in folders]
    position = wild.index(True) if True in wild else len(folders)
    return ESCAPED.sub(r"\1", "/".join(folders[:position])), "/".join(folders[position:])


Listed = tuple[str, int, int, int]
"""Of a file: path, size, and the times when it was modified and when it last changed, in nanoseconds."""


def _list_local(_: Any, base: str, recursive: bool, left_out: Callable[[str], bool]) -> Iterator[Listed]:
    """Yield the files below a local folder. Links are followed, but no folder is entered twice, and none that is left
    out."""
    pending, entered = [base or "/"], set()
    while pending:
        folder = pending.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_file():
                    stat = entry.stat()
                    yield entry.path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
                elif recursive and entry.is_dir() and not left_out(entry.path + "/"):
                    stat = entry.stat()
                    if (stat.st_dev, stat.st_ino) not in entered:
                        entered.add((stat.st_dev, stat.st_ino))
                        pending.append(entry.path)


def _list_remote(filesystem: Any, base: str, recursive: bool, _: Callable[[str], bool]) -> Iterator[Listed]:
    selector = pafs.FileSelector(base, recursive=recursive)
    for info in filesystem.get_file_info(selector):
        if info.type == pafs.FileType.File:
            yield info.path, info.size, info.mtime_ns or 0, 0
