"""The hub as it is found offline: in the cache that huggingface_hub keeps on this machine."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from mixray.config.data import TokenizerConfig
from mixray.data import TextInputs, prepare
from mixray.data.reading.hugging_face import HubUnreachableError, hub_revision
from mixray.data.reading.parts import list_pool
from mixray.data.text.tokenizer import existing_folder
from mixray.errors import InputError
from mixray.store import Artifacts

COMMIT = "0123456789" * 4


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("datasets--some--data", "models--some--tokenizer"):
        snapshot = tmp_path / "hub" / name / "snapshots" / COMMIT
        snapshot.mkdir(parents=True)
        (snapshot / "README.md").write_text("")
        refs = tmp_path / "hub" / name / "refs"
        refs.mkdir()
        (refs / "main").write_text(COMMIT)
    return tmp_path / "hub"


def test_a_revision_is_what_the_hub_said_last(cache: Path, source: Any) -> None:
    assert hub_revision(source(dataset="some/data")) == COMMIT
    assert hub_revision(source(dataset="some/data", revision="main")) == COMMIT
    assert hub_revision(source(dataset="some/data", revision="a" * 40)) == "a" * 40
    listing = list_pool(source(dataset="some/data"))
    assert listing.key == list_pool(source(dataset="some/data", revision=COMMIT)).key
    with pytest.raises(HubUnreachableError, match=r"where: sources\.code\.dataset\n  got: some/other \("):
        hub_revision(source(dataset="some/other"))
    shutil.rmtree(cache)


def test_a_tokenizer_of_the_hub_is_that_of_its_files(
    cache: Path, run_config: Any, write_jsonl: Any, mapper: Any, artifacts: Artifacts
) -> None:
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "word": 1, "</s>": 2}, unk_token="<unk>"))
    folder = cache / "models--some--tokenizer" / "snapshots" / COMMIT
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>").save_pretrained(folder)
    assert existing_folder(TokenizerConfig(hub="some/tokenizer")) == folder
    sources = {"code": {"jsonl": str(write_jsonl("a.jsonl", [f"a{number}" for number in range(40)]))}}
    targets = {"goal": {"jsonl": str(write_jsonl("t.jsonl", [f"b{number}" for number in range(40)]))}}
    of_hub = run_config(sources, targets, tokenizer={"hub": "some/tokenizer"})
    of_path = run_config(sources, targets, tokenizer={"path": str(folder)})
    prepared = prepare(of_hub, artifacts, mapper, lambda _: None)
    assert mapper.labels == ["scan", "select", "tokens"]
    assert prepare(of_path, artifacts, mapper, lambda _: None) == prepared
    assert prepared.inputs == TextInputs(16, 3, 2)


def test_a_name_that_is_none() -> None:
    with pytest.raises(InputError, match=r"the model is not found on the Hugging Face hub\n  where: tokenizer\.hub"):
        existing_folder(TokenizerConfig(hub="a..b"))
