"""The reference of the run file: every field is described, key paths lead to their fields, editors get a schema."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mixray.config import RobustConfig, RunConfig, RunFile, dump_config, load_config, yaml_text
from mixray.config.fields import KINDS, json_schema, key_references
from mixray.config.loading import write_starter
from mixray.errors import InputError
from tests.config.conftest import JOBS, RUN_FILES

ARMS = ("erm", "balanced", "importance", "group_dro", "also")


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_field_of_the_json_schema_has_a_description(kind: type[RunConfig] | type[RobustConfig]) -> None:
    schema = kind.model_json_schema()
    sections = {kind.__name__: schema, **schema["$defs"]}
    fields = [(name, key, field) for name, section in sections.items() for key, field in section["properties"].items()]
    assert len(fields) > 40
    assert [f"{name}.{key}" for name, key, field in fields if not field.get("description", "").endswith(".")] == []


def test_the_schema_for_editors_takes_both_kinds_of_run_file() -> None:
    schema = json_schema()
    assert [branch["$ref"] for branch in schema["anyOf"]] == ["#/$defs/RunConfig", "#/$defs/RobustConfig"]
    assert "targets" in schema["$defs"]["RunConfig"]["required"]
    assert schema["$defs"]["RobustConfig"]["properties"]["seeds"]["default"] == 3


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.name)
def test_the_schema_for_editors_takes_every_example_as_written_and_resolved(path: Path) -> None:
    for text in (path.read_text(), dump_config(load_config(path, kind=RunFile))):
        jsonschema.validate(yaml_text.load(text)[0], json_schema())


def test_the_schema_for_editors_refuses_another_kind_of_model() -> None:
    document = yaml_text.load(dump_config(load_config(JOBS / "quickstart.yaml")))[0]
    document["proxy"]["kind"] = "classifiers"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, json_schema())


KINDS, SHARES = "also | erm | group_dro", "name -> number >= 0.0 <= 1.0 | null"


@dataclass(frozen=True)
class Expected:
    kinds: list[str]
    key: str
    type: str
    default: str | None


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("mixture.tolerance", Expected(["mixture"], "mixture.tolerance", "number > 0", "1.0e-08")),
        ("seeds", Expected(["robust"], "seeds", "integer > 0", "3")),
        ("storage", Expected(["mixture", "robust"], "storage", "text", "./mixray-runs")),
        ("sources.files", Expected(["mixture"], "sources.NAME.files", "text | list of text | null", "null")),
        ("sources.python.files", Expected(["mixture"], "sources.NAME.files", "text | list of text | null", "null")),
        ("retrain.tokens", Expected(["mixture"], "retrain.tokens", "integer > 0 | null", "null")),
        ("mixture.unit", Expected(["mixture"], "mixture.unit", "document | window | token | section", "document")),
        ("retrain.workers", Expected(["mixture"], "retrain.workers", "integer > 0 | [integer > 0, integer > 0]", "1")),
        ("retrain.objective.kind", Expected(["mixture"], "retrain.objective.kind", "also | erm | group_dro", None)),
        ("retrain.arms.objective.kind", Expected(["mixture"], "retrain.arms.objective.kind", KINDS, None)),
        ("retrain.arms.shares", Expected(["mixture"], "retrain.arms.shares", SHARES, "null")),
        ("mixture", Expected(["mixture"], "mixture", "section", "the defaults of its keys")),
        ("arms", Expected(["robust"], "arms", f"list of {' | '.join(ARMS)}", f"[{', '.join(ARMS)}]")),
    ],
)
def test_a_key_is_explained_for_the_kinds_of_run_file_that_have_it(key: str, expected: Expected) -> None:
    references = key_references(key)
    assert list(references) == expected.kinds
    reference = references[expected.kinds[-1]]
    assert (reference.key, reference.type, reference.default) == (expected.key, expected.type, expected.default)


def test_a_section_lists_its_keys_and_the_whole_run_file_its_sections() -> None:
    assert [entry.key for entry in key_references("tracking")["mixture"].keys] == [
        "tracking.uri",
        "tracking.experiment",
        "tracking.system_metrics",
    ]
    assert set(RobustConfig.model_fields) == {entry.key for entry in key_references()["robust"].keys}
    model_keys = {entry.key for entry in key_references("proxy.model")["mixture"].keys}
    assert {"proxy.model.architecture", "proxy.model.pretrained", "proxy.model.head"} <= model_keys


@pytest.mark.parametrize(
    ("key", "near"),
    [("mixture.tol", "mixture.tolerance"), ("tolerance", "mixture.tolerance"), ("mixtre", "mixture"), ("xyzzy", None)],
)
def test_a_wrong_key_names_the_nearest(key: str, near: str | None) -> None:
    with pytest.raises(InputError, match="unknown key") as caught:
        key_references(key)
    assert caught.value.remedy == (near and f"did you mean {near!r}?")


@pytest.mark.parametrize(
    ("kind", "job", "config_kind"),
    [("mixture", "quickstart.yaml", RunConfig), ("robust", "robust_digits.yaml", RobustConfig)],
)
def test_the_run_file_that_init_writes_is_the_example_of_its_kind(
    kind: Any, job: str, config_kind: Any, tmp_path: Path
) -> None:
    path = tmp_path / "run.yaml"
    write_starter(path, kind)
    example = load_config(JOBS / job, kind=config_kind)
    assert load_config(path, {"name": example.name}, kind=config_kind) == example


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("precious")
    with pytest.raises(InputError, match="already exists"):
        write_starter(path, "mixture")
    assert path.read_text() == "precious"
    with pytest.raises(InputError, match="cannot be written"):
        write_starter(tmp_path / "no folder" / "run.yaml", "mixture")
