import os
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pytest

from mixray.data.reading.locations import FilesInFolder, SourceFile, find_files, glob_regex
from mixray.errors import InputError

TREE = [
    "a.txt",
    "b.md",
    ".hidden.txt",
    "sub/c.txt",
    "sub/deep/d.txt",
    "sub/deep/e[1].txt",
    "__pycache__/f.txt",
    "x-1.txt",
]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in TREE:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def names(
    tree: Path, patterns: list[str], exclude: list[str] | None = None, in_folder: FilesInFolder | None = None
) -> list[str]:
    found = find_files(patterns, exclude or [], in_folder=in_folder)
    return [os.path.relpath(file.path, tree) for file in found]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.txt", [".hidden.txt", "a.txt", "x-1.txt"]),
        ("./?.txt", ["a.txt"]),
        ("[ab].*", ["a.txt", "b.md"]),
        ("[!a].*", ["b.md"]),
        ("x[-_]1.txt", ["x-1.txt"]),
        ("**/*.txt", sorted(name for name in TREE if name.endswith(".txt"))),
        ("sub/**", ["sub/c.txt", "sub/deep/d.txt", "sub/deep/e[1].txt"]),
        ("sub/*/*.txt", ["sub/deep/d.txt", "sub/deep/e[1].txt"]),
        ("sub/**/deep/d.txt", ["sub/deep/d.txt"]),
        ("sub/deep/e[[]1].txt", ["sub/deep/e[1].txt"]),
        ("~/a.txt", ["a.txt"]),
        ("a.txt", ["a.txt"]),
        ("sub", []),
        ("nowhere/*.txt", []),
        ("*.TXT", []),
    ],
)
def test_patterns(tree: Path, pattern: str, expected: list[str]) -> None:
    assert names(tree, [pattern]) == expected
    assert names(tree, [f"file://{tree}/{pattern.removeprefix('~/')}"]) == expected or "?" in pattern


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        ([], ["a.txt", "sub/c.txt", "sub/deep/d.txt", "sub/deep/e[1].txt"]),
        (["deep/**"], ["a.txt", "sub/c.txt"]),
        (["sub/**"], ["a.txt"]),
        (["./sub/*.txt"], ["a.txt", "sub/deep/d.txt", "sub/deep/e[1].txt"]),
        (["[cd].txt", "a.txt"], ["sub/deep/e[1].txt"]),
        (["~/sub/deep/*"], ["a.txt", "sub/c.txt"]),
        (["~/c.txt", "txt"], ["a.txt", "sub/c.txt", "sub/deep/d.txt", "sub/deep/e[1].txt"]),
    ],
)
def test_exclude(tree: Path, exclude: list[str], left: list[str]) -> None:
    assert names(tree, ["a.txt", "sub/**/*.txt"], exclude) == left


def test_patterns_keep_their_order_and_no_file_comes_twice(tree: Path) -> None:
    assert names(tree, ["sub/*.txt", "*.md", "**/c.txt", "a.txt"]) == ["sub/c.txt", "b.md", "a.txt"]


def test_a_folder_stands_for_files_below_it(tree: Path) -> None:
    expected = ["c.txt", "deep/d.txt", "deep/e[1].txt"]

    def chosen(paths: Sequence[str]) -> list[str]:
        assert sorted(paths) == expected
        return ["deep/d.txt"]

    assert names(tree, ["sub"], in_folder=chosen) == ["sub/deep/d.txt"]


def test_links_are_followed_and_circles_end(tree: Path) -> None:
    (tree / "sub" / "deep" / "up").symlink_to(tree / "sub")
    (tree / "link.txt").symlink_to(tree / "a.txt")
    (tree / "dangling.txt").symlink_to(tree / "nothing")
    assert "link.txt" in names(tree, ["*.txt"])
    assert "dangling.txt" not in names(tree, ["*.txt"])
    assert len(names(tree, ["sub/**/c.txt"])) <= 2


def test_the_standard_library_without_what_is_installed_in_it() -> None:
    files = find_files(["{stdlib}/**/*.py"], [])
    stdlib = sysconfig.get_paths()["stdlib"]
    assert f"{stdlib}/json/__init__.py" in {file.path for file in files}
    assert not any("site-packages" in file.path for file in files)


def test_a_package_is_found_without_importing_it() -> None:
    assert [Path(file.path).name for file in find_files(["{package:pyarrow}/fs.py"], [])] == ["fs.py"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{package:nosuchpackage}/*.py", "a package is not installed\n  got: {package:nosuchpackage}"),
        ("{package:a.b}/*.py", "a package is not installed"),
        ("{package:this}/*.py", "a package is not installed"),
        (
            "{a,b}/*.txt",
            "unknown placeholder\n  got: {a,b}\n  wanted: {stdlib} or {package:NAME}\n  remedy: give several",
        ),
        ("nosuch://bucket/*.txt", "a location cannot be opened\n  got: nosuch://bucket"),
        ("/tmp/[z-a].txt", "a pattern cannot be read"),
        (f"/tmp/{'x' * 300}/*", "a location cannot be listed\n  got: /tmp/xxx"),
        ("nosuch://user:secret@bucket/*.txt?key=secret", "got: nosuch://bucket ("),
    ],
)
def test_what_cannot_be_found_out(pattern: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(InputError) as caught:
        find_files([pattern], [])
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "path"), [("a/**/b", "a/b"), ("a/**/b", "a/x/y/b"), ("**/a]b", "a]b"), ("/**", "/x/y")]
)
def test_regex_matches(pattern: str, path: str) -> None:
    assert glob_regex(pattern).fullmatch(path)


@pytest.mark.parametrize(
    ("pattern", "path"), [("a/*/b", "a/b"), ("a/*", "a/x/y"), ("a**", "a/x"), ("a?b", "a/b"), ("**", "")]
)
def test_regex_does_not_match(pattern: str, path: str) -> None:
    assert not glob_regex(pattern).fullmatch(path)


def test_other_content_of_the_same_size_and_time_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("one")
    for pattern in (str(path), str(tmp_path / "*.jsonl")):
        (before,) = find_files([pattern], [])
        path.write_text("two")
        os.utime(path, ns=(before.mtime_ns, before.mtime_ns))
        (after,) = find_files([pattern], [])
        assert (after.size, after.mtime_ns) == (before.size, before.mtime_ns)
        assert after.identity != before.identity
        assert find_files([pattern], [])[0].identity == after.identity


def test_a_file_is_the_same_under_another_user_and_order_of_options() -> None:
    uris = ("s3://bucket?region=eu&scheme=http", "s3://me@bucket?scheme=http&region=eu", "s3://bucket?region=us")
    one, same, other = (SourceFile(uri, "bucket/a", 1, 2).identity for uri in uris)
    assert one == same != other
