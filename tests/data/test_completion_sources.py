"""Sources of prompts with completions: how they are packed, what is trained on, chat templates, and what is counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mixray.data import open_rows, prepare
from mixray.data.check import check_inputs
from mixray.data.pools import Prepared
from mixray.data.reading.parts import list_pool
from mixray.data.reading.row_texts import Example
from mixray.data.text.completions import example_pieces, packed
from mixray.data.text.documents import read_documents
from mixray.data.text.tokenizer import END_OF_DOCUMENT, Encoder, train_bpe
from mixray.errors import InputError
from mixray.models.causal_lm import CausalLM
from mixray.store import Artifacts

END = 0
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
ROWS = [
    {"q": f"Which number follows {number}?", "a": f" {number + 1}", "s": "Be brief." if number % 2 else None}
    for number in range(60)
]
PAIR = {"prompt": "q", "completion": "a"}
examples = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), min_size=1, max_size=200)


def marked(prompt: list[int], completion: list[int]) -> list[int]:
    return [*(~id for id in prompt), *completion]


@given(examples, st.integers(2, 16))
def test_every_token_of_a_completion_is_trained_on_once(lengths: list[tuple[int, int]], window: int) -> None:
    """Against a direct computation; an example that fits into a window stands in one, with its whole prompt."""
    sequences, fresh = [], iter(range(1, 10_000))
    for prompt, completion in lengths:
        sequences.append(([next(fresh) for _ in range(prompt)], [next(fresh) for _ in range(completion)]))
    pieces = [each for prompt, end in sequences for each in example_pieces(marked(prompt, end), END, window)]
    windows = list(packed(pieces, END, window))
    assert {len(each) for each in windows} == {window}
    assert all(each[0] < 0 for each in windows), "the first token of a window is never predicted"
    trained = Counter(id for each in windows for id in each if id >= 0)
    expected = Counter(id for _, completion in sequences for id in completion)
    assert trained == expected | Counter({END: len(sequences)})
    joined = [f" {' '.join(map(str, each))} " for each in windows]
    for prompt, completion in sequences:
        if len(prompt) + len(completion) + 2 <= window:
            whole = [END, *(~id for id in prompt), *completion, END]
            started = [~END, *whole[1:]]
            assert any(f" {' '.join(map(str, form))} " in text for text in joined for form in (whole, started))


def test_a_longer_example_keeps_the_end_of_its_prompt_and_all_of_its_completion() -> None:
    prompt, completion = list(range(10, 30)), list(range(50, 54))
    (piece,) = example_pieces(marked(prompt, completion), END, 8)
    assert piece == [~27, ~28, ~29, *completion, END]
    long = list(range(50, 62))
    first, second, third = example_pieces(marked(prompt, long), END, 8)
    assert first == [~26, ~27, ~28, ~29, *long[:4]], "half of what a window predicts is left to the prompt"
    assert (second, third) == ([~53, *long[4:11]], [~60, 61, END])


@pytest.fixture
def made(artifacts: Artifacts, run_config: Any, mapper: Any, tmp_path: Path) -> Callable[..., Prepared]:
    def make(rows: list[dict[str, Any]] = ROWS, tokenizer: Any = None, check: bool = False, **source: Any) -> Any:
        for name, content in (("s", rows), ("t", ROWS[:0] + [{"q": f"{n}?", "a": f" {n} is it"} for n in range(40)])):
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
        more = {"tokenizer": tokenizer} if tokenizer else {}
        sources = {"pairs": {"jsonl": str(tmp_path / "s.jsonl"), **(source or PAIR)}}
        targets = {"goal": {"jsonl": str(tmp_path / "t.jsonl"), **PAIR}}
        config = run_config(sources, targets, window=24, **more)
        return check_inputs(config) if check else prepare(config, artifacts, mapper, lambda _: None)

    return make


def texts_of(prepared: Prepared, artifacts: Artifacts, tokenizer: Any) -> Counter[str]:
    """What is trained on between two prompts, with its prompt: "prompt|completion"."""
    found = Counter[str]()
    for window in open_rows(artifacts.storage, prepared.sources["pairs"]).read(
        np.arange(len(open_rows(artifacts.storage, prepared.sources["pairs"])))
    ):
        prompt: list[int] = []
        completion: list[int] = []
        for id in [*window.tolist(), ~0]:
            if id < 0 and completion:
                found[f"{tokenizer.decode(prompt)}|{tokenizer.decode(completion)}"] += 1
                prompt, completion = [], []
            (prompt if id < 0 else completion).append(id if id >= 0 else ~id)
    return found


def test_stored_windows_hold_the_examples_and_count_what_is_trained_on(
    made: Callable[..., Prepared], artifacts: Artifacts
) -> None:
    prepared = made()
    rows = open_rows(artifacts.storage, prepared.sources["pairs"])
    windows = rows.read(np.arange(len(rows)))
    encoder = Encoder.of(artifacts.storage, prepared.tokenizer)  # type: ignore[arg-type]
    expected = Counter[int]()
    for row in ROWS:
        prompt, whole = encoder._ids([row["q"], row["q"] + row["a"]])
        expected.update([*whole[len(prompt) :], encoder.end_of_document])
    assert Counter(windows[windows >= 0].tolist()) == expected
    counts = prepared.counts["source pairs"]
    assert counts["trained_tokens"] == expected.total() < counts["tokens"] == windows.size
    other = made(prompt="q", completion="a", max_tokens=24 * 5)
    assert other.counts["source pairs"]["tokens"] == 24 * 5
    assert other.sources["pairs"].id != prepared.sources["pairs"].id
    planned = made(check=True).tokens["source pairs"]
    assert planned == pytest.approx(windows.size, rel=0.2), "with prompts and padding"


def test_a_model_judges_windows_by_their_completions(neox_like: CausalLM) -> None:
    ids = np.random.default_rng(0).integers(0, 40, (5, 12))
    marked = np.where(np.arange(12) < np.arange(2, 7)[:, None], ~ids, ids)
    whole = neox_like.log_probs(list(ids), batch_tokens=64, segment=1).segments
    expected = [-float(row[count - 1 :].mean()) for row, count in zip(whole or [], range(2, 7), strict=True)]
    assert neox_like.training_losses(marked) == pytest.approx(expected, rel=1e-5)
    expected = [-float(row.mean()) for row in whole or []]
    assert neox_like.training_losses(ids) == pytest.approx(expected, rel=1e-5)
    first_alone = np.where(np.arange(12) < 1, ~ids, ids)  # as where a long completion goes on
    assert neox_like.training_losses(first_alone) == pytest.approx(expected, rel=1e-5)


@pytest.fixture
def neox_like() -> CausalLM:
    import torch

    from mixray.config.training import NewModel

    model = {"architecture": "gpt_neox", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = NewModel.model_validate(model)
    return CausalLM.create(config, vocab_size=40, window=12, seed=0, device=torch.device("cpu"))


# ------------------------------------------------------------------------------------------------------ chat templates


@pytest.fixture
def chat_folder(tmp_path: Path) -> Callable[..., str]:
    def write(template: str | None, name: str = "chat") -> str:
        bpe = train_bpe([json.dumps(row) for row in ROWS] + [CHATML], 400)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END_OF_DOCUMENT)
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        tokenizer.chat_template = template
        tokenizer.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return write


def test_the_chat_template_stands_around_prompt_and_completion(
    made: Callable[..., Prepared], artifacts: Artifacts, chat_folder: Callable[..., str]
) -> None:
    """As the tokenizer itself writes it, its special tokens as such; a conversation of messages is the same."""
    folder = chat_folder(CHATML)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    short = [{"q": f"{n}?", "a": f"{n}", "s": "Go." if n % 2 else " "} for n in range(30)]
    prepared = made(short, {"path": folder}, **PAIR, system="s", chat_template=True)
    expected = Counter[str]()
    for row in short:
        turns = [{"role": "system", "content": row["s"]}] if row["s"].strip() else []
        turns += [{"role": "user", "content": row["q"]}, {"role": "assistant", "content": row["a"]}]
        ids = tokenizer.apply_chat_template(turns, return_dict=False)
        prompt = tokenizer.apply_chat_template(turns[:-1], add_generation_prompt=True, return_dict=False)
        assert ids[: len(prompt)] == prompt
        assert tokenizer.convert_tokens_to_ids("<|im_end|>") in ids
        kept = max(0, len(ids) + 2 - 24)  # of a window of 24 tokens
        context = [*tokenizer.encode(END_OF_DOCUMENT), *prompt][kept:]
        completion = [*ids[len(prompt) :], *tokenizer.encode(END_OF_DOCUMENT)]
        expected[f"{tokenizer.decode(context)}|{tokenizer.decode(completion)}"] += 1
    assert texts_of(prepared, artifacts, tokenizer) == expected
    conversations = []
    for row in short:
        system = [{"role": "system", "content": row["s"]}] if row["s"].strip() else []
        answered = [{"role": "user", "content": row["q"]}, {"role": "assistant", "content": row["a"]}]
        conversations.append({"m": [*system, *answered]})
    same = made(conversations, {"path": folder}, messages="m", chat_template=True)
    assert texts_of(same, artifacts, tokenizer) == expected


def test_another_template_makes_other_windows_and_no_other_tokenizer(
    made: Callable[..., Prepared], chat_folder: Callable[..., str]
) -> None:
    plain = made(ROWS, {"path": chat_folder(CHATML)}, **PAIR)
    others = [
        made(ROWS, {"path": chat_folder(text)}, **PAIR, chat_template=True)
        for text in (CHATML, CHATML.replace("\n", " "))
    ]
    ids = [each.sources["pairs"].id for each in (plain, *others)]
    assert len(set(ids)) == 3
    again = made(ROWS, {"path": chat_folder(CHATML.replace("\n", " "))}, **PAIR)
    assert again.sources["pairs"].id == plain.sources["pairs"].id
    assert again.targets["goal"].id == plain.targets["goal"].id == others[0].targets["goal"].id


def test_a_tokenizer_without_a_chat_template_is_refused(
    made: Callable[..., Prepared], chat_folder: Callable[..., str]
) -> None:
    for check in (True, False):
        with pytest.raises(InputError, match="no chat template") as caught:
            made(ROWS, {"path": chat_folder(None)}, check=check, **PAIR, chat_template=True)
        assert "sources.pairs.chat_template" in str(caught.value)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (NO_SYSTEM, ["refuses a conversation", "no system role"]),
        (CHATML.replace("{{ message.content }}", "{{ messages | length }}"), ["does not write an answer"]),
    ],
)
def test_a_template_that_cannot_write_the_rows_is_refused(
    template: str, words: list[str], made: Callable[..., Prepared], chat_folder: Callable[..., str]
) -> None:
    with pytest.raises(InputError) as caught:
        made(ROWS, {"path": chat_folder(template)}, **PAIR, system="s", chat_template=True)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([{"role": "user", "content": "q"}], "the roles user"),
        ([{"role": "assistant", "content": "a"}, {"role": "user", "content": "q"}], "the roles assistant, user"),
        ([{"role": "user", "text": "q"}], "'text': 'q'"),
        ("a text", "a text"),
    ],
)
def test_what_is_no_conversation_is_refused(messages: Any, words: str, source: Any, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"m": messages}) + "\n")
    pool = source(jsonl=f"{tmp_path}/a.jsonl", messages="m", chat_template=True)
    with pytest.raises(InputError, match="holds no conversation") as caught:
        list(read_documents(pool, list_pool(pool).parts[0], Counter()))
    assert words in str(caught.value)


def test_a_conversation_ends_with_its_completion(source: Any, tmp_path: Path) -> None:
    turns = [("system", "s"), ("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four")]
    rows = [{"m": [{"role": role, "content": content} for role, content in turns]}, {"m": None}, {"m": []}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pool, counts = source(jsonl=f"{tmp_path}/a.jsonl", messages="m", chat_template=True), Counter[str]()
    (document,) = read_documents(pool, list_pool(pool).parts[0], counts)
    assert document.example == Example("three", "four", before=tuple(turns[:3]))
    assert (document.text, counts["skipped_empty"], counts["prompt_bytes"]) == ("sonetwothreefour", 2, 12)


def conversation(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


ENDING = "<|im_end|>{% if loop.last and message.role == 'assistant' %}<|endoftext|>{% endif %}"


@pytest.mark.parametrize("template", [CHATML, CHATML.replace("<|im_end|>", ENDING)])
def test_sources_are_trained_on_every_answer_of_a_conversation(
    template: str, made: Callable[..., Prepared], artifacts: Artifacts, chat_folder: Callable[..., str]
) -> None:
    """As transformers marks them where the template says what the assistant generates."""
    folder = chat_folder(template)
    turns = [("user", "1?"), ("assistant", "2"), ("user", "3?"), ("assistant", " "), ("user", "5?"), ("assistant", "6")]
    rows = [{"m": conversation(*turns)}] * 2 + [{"m": conversation(*turns[:2])}] * 2
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prepared = made(rows, {"path": folder}, messages="m", chat_template=True)
    windows = open_rows(artifacts.storage, prepared.sources["pairs"])
    trained = Counter(id for window in windows.read(np.arange(len(windows))).tolist() for id in window if id >= 0)
    content = "{{ message.content }}<|im_end|>"
    is_answer = "{% if message.role == 'assistant' and message.content.strip() %}"
    answer = f"{{% generation %}}{content}{{% endgeneration %}}"
    generated = template.replace(content, f"{is_answer}{answer}{{% else %}}{content}{{% endif %}}")
    expected = Counter[int]()
    for messages in (row["m"] for row in rows[1:3]):
        encoded = tokenizer.apply_chat_template(
            messages, chat_template=generated, return_assistant_tokens_mask=True, return_dict=True
        )
        expected.update(np.array(encoded["input_ids"])[np.array(encoded["assistant_masks"]) > 0].tolist())
    ends = [tokenizer.eos_token_id, *tokenizer.encode("\n")]  # of documents and of turns
    assert Counter({id: count for id, count in trained.items() if id not in ends}) == expected


@pytest.mark.parametrize("window", [4, 7, 12, 40])
def test_a_longer_conversation_goes_on_in_further_windows(window: int) -> None:
    """Every token of an answer is trained on once; no window is read of which nothing is."""
    ids = [~1, ~2, ~3, 4, 5, *(~id for id in range(6, 20)), 20, 21, 22]
    pieces = list(example_pieces(ids, END, window))
    assert Counter(id for piece in pieces for id in piece if id >= 0) == Counter([4, 5, 20, 21, 22, END])
    assert all(len(piece) <= window and piece[0] < 0 <= max(piece) for piece in pieces)


def test_documents_are_kept_apart_only_where_the_template_lets_them(
    run_config: Any, tmp_path: Path, chat_folder: Callable[..., str]
) -> None:
    """Where turns end with the end of document, an answer would not see its question."""
    folder = chat_folder(CHATML)
    ending = Path(chat_folder(CHATML, "ending"))
    settings = json.loads((ending / "tokenizer_config.json").read_text())
    (ending / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": "<|im_end|>"}))

    def check(tokenizer: str, role: str = "sources", attention: str = "document") -> None:
        pools = {"sources": {"a": {}}, "targets": {"b": {}}}
        for name, pool in (each for named in pools.values() for each in named.items()):
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
            pool |= {"jsonl": f"{tmp_path}/{name}.jsonl", **PAIR}
        name = "a" if role == "sources" else "b"
        pools[role][name] = {"jsonl": f"{tmp_path}/{name}.jsonl", **PAIR, "chat_template": True}
        model = {"architecture": "llama", "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
        proxy = {"model": model, "tokens": 4096, "attention": attention}
        check_inputs(run_config(**pools, window=24, tokenizer={"path": tokenizer}, proxy=proxy))

    with pytest.raises(InputError, match="end of document inside of a conversation") as caught:
        check(str(ending))
    assert "proxy.attention" in str(caught.value)
    check(str(ending), attention="window")
    check(str(ending), role="targets")
    check(folder)
