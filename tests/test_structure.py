"""The shape of the repository: what lies where, what imports what, what an import costs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import mixray
from tests.counts import Counts, count

ROOT = Path(__file__).parents[1]
TOP_LEVEL = {"README.md", "cluster.yaml", "jobs", "mixray", "pyproject.toml", "tests"}
HEAVY = {"ray", "torch", "mlflow", "transformers", "datasets", "matplotlib", "pandas"}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_the_top_level_holds_these_and_nothing_else() -> None:
    """Dot-files and what git ignores aside."""
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    names = {path.partition("/")[0] for path in listed if path and (ROOT / path).exists()}
    assert {name for name in names if not name.startswith(".")} == TOP_LEVEL


def test_tests_mirror_the_package() -> None:
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    homes = {path.parent.relative_to(ROOT / "mixray") for path in (ROOT / "mixray").rglob("*.py")}
    assert folders - homes <= {Path("end_to_end")}


def test_imports_keep_their_contracts() -> None:
    """[tool.importlinter] in pyproject.toml: the layers, and the homes of ray, mlflow and torch."""
    # In a process of its own: import-linter silences every logger that exists by then.
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True, no_logo=True))"
    linted = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout + linted.stderr


@pytest.fixture(scope="module")
def counts() -> Counts:
    return count()


def test_names_say_what_a_value_is(counts: Counts) -> None:
    assert counts.generic_share <= 0.003, f"generic names are {counts.generic_share:.2%}: {dict(counts.generic)}"


def test_a_file_holds_one_whole_idea(counts: Counts) -> None:
    assert 120 <= counts.median_lines <= 250, f"the median file has {counts.median_lines} lines"


def test_a_folder_holds_at_most_a_dozen_files(counts: Counts) -> None:
    assert {folder: files for folder, files in counts.files.items() if files > 12} == {}


def test_dictionaries_of_anything_stay_at_the_edges(counts: Counts) -> None:
    number = counts.any_dicts.total()
    assert number <= 37, f"{number} times dict[str, Any] or Mapping[str, Any]: {dict(counts.any_dicts)}"


@pytest.mark.parametrize(
    "code",
    [
        "import mixray",
        "import mixray.cli",
        "import mixray; mixray.solve([[-1.0, -2.0], [-2.0, -1.0]])",
        "import mixray; mixray.load_config('jobs/quickstart.yaml')",
        "from mixray.runs import open_run; from mixray.search import solve_again",
    ],
)
def test_what_needs_no_heavy_package_loads_none(code: str) -> None:
    code += "; import json, sys; print(json.dumps([name for name in sys.modules if '.' not in name]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert HEAVY & set(json.loads(done.stdout)) == set()


@pytest.mark.parametrize("name", mixray.__all__)
def test_every_public_name_resolves(name: str) -> None:
    value = getattr(mixray, name)
    assert value.__name__ == name
    assert value.__doc__


def test_a_name_that_is_not_public_is_refused_as_python_does() -> None:
    with pytest.raises(AttributeError, match="module 'mixray' has no attribute 'slove'"):
        mixray.slove  # noqa: B018
