"""Examples in a tokenizer's own chat template: what is written, where its answers stand, and what a template must do.

A template is only ever asked for text. What stands between the text of a conversation up to an answer, with the words
that begin the answer, and the text of the conversation with it is that answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mixray.data.reading.row_texts import Example
from mixray.errors import InputError, first_line

ASSISTANT = "assistant"


def in_chat_template(tokenizer: Any, example: Example, where: str) -> tuple[str, str]:
    """Return an example's prompt up to where the assistant begins, and its completion to the end of the turn.

    ``tokenizer``: of transformers; ``where``: the dotted key of the run file that asks for the template. Raises
    InputError where the template refuses the messages, or writes the prompt otherwise once there is an answer, so that
    one cannot say where the answer begins.
    """
    messages = _messages(example)
    prompt = _rendered(tokenizer, messages[:-1], where, answer_follows=True)
    text = _rendered(tokenizer, messages, where)
    _require_start(text, prompt, where)
    return prompt, text[len(prompt) :]


def earlier_answers(tokenizer: Any, example: Example, text: str, where: str) -> list[tuple[int, int]]:
    """Return where in the ``text`` of a conversation the answers before the last one begin and end, with the end of
    their turn, in characters. Blank ones are left out.

    Raises InputError as ``in_chat_template`` does.
    """
    messages, spans = _messages(example), []
    for number, (role, content) in enumerate(messages[:-1]):
        if role != ASSISTANT or not content.strip():
            continue
        before = _rendered(tokenizer, messages[:number], where, answer_follows=True)
        _require_start(text, before, where)
        # A template may write something after the last message alone.
        end = shared_start(text, _rendered(tokenizer, messages[: number + 1], where))
        if end <= len(before):
            raise _unclear(text, before, where)
        spans.append((len(before), end))
    return spans


def require_separable(tokenizer: Any, *, several_turns: bool, where: str, attention: str) -> None:
    """Raise InputError where the template writes the end of document inside of a conversation, so that its messages
    would not see each other where documents are kept apart.

    ``several_turns``: whether conversations have more than one answer; ``attention``: the key that keeps them apart.
    """
    before = (("user", "a"), (ASSISTANT, "b")) if several_turns else ()
    written = "".join(in_chat_template(tokenizer, Example("a", "b", before=before), where))
    ids = tokenizer(written, add_special_tokens=False)["input_ids"]
    if tokenizer.eos_token_id in ids[:-1]:
        raise InputError(
            "the tokenizer's chat template writes the end of document inside of a conversation",
            where=attention,
            got=f"document, and {tokenizer.eos_token} in {written!r}: an answer would not see its question",
            wanted="window, or a tokenizer whose eos_token ends whole conversations alone",
            remedy="leave attention out, or name another eos_token in a copy of the tokenizer",
        )


def shared_start(one: Sequence[object], other: Sequence[object]) -> int:
    """Return how many elements two sequences have in common before they differ."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((number for number, (a, b) in pairs if a != b), min(len(one), len(other)))


def _messages(example: Example) -> list[tuple[str, str]]:
    return [*example.before, ("user", example.prompt), (ASSISTANT, example.completion)]


def _rendered(tokenizer: Any, messages: list[tuple[str, str]], where: str, *, answer_follows: bool = False) -> str:
    from jinja2 import TemplateError

    turns = [{"role": role, "content": content} for role, content in messages]
    try:
        text: str = tokenizer.apply_chat_template(turns, add_generation_prompt=answer_follows, tokenize=False)
    except (TemplateError, ValueError, TypeError) as error:
        raise InputError(
            "the tokenizer's chat template refuses a conversation",
            where=where,
            got=f"{first_line(error)}, of the roles {', '.join(role for role, _ in messages)}",
            wanted="roles that the template knows, in its order",
        ) from error
    return text


def _require_start(text: str, prompt: str, where: str) -> None:
    if not text.startswith(prompt) or len(text) == len(prompt):
        raise _unclear(text, prompt, where)


def _unclear(text: str, prompt: str, where: str) -> InputError:
    return InputError(
        "the tokenizer's chat template does not write an answer after its prompt",
        where=where,
        got=f"{text[-80:]!r}, after the prompt {prompt[-80:]!r}",
        wanted="a template whose text of a whole conversation begins with that of its prompt",
        remedy="leave chat_template out, and write the words between in 'prompt' and 'completion'",
    )
