"""Prompts with completions as token ids: the pieces that fit into a window, and windows that are packed with them.

A prompt with its completion is the sequence [end of document, prompt, completion, end of document]; what is trained on
is its completion and the end of document after it. An example that fits into a window is never cut. Of a longer one the
prompt is cut at its beginning so that the completion fits, or, where the completion alone does not, to half of the
window; what then remains of the completion goes on in further windows. A target is read in the same way.

A conversation is trained on in all of the assistant's answers, each to the end of its turn. Its prompt is then what
stands before the first of them, and what stands between them is only read.

In windows for training, a token that is read but not trained on stands as -1 - id, which is ``~id``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

OPEN_WINDOWS = 64
"""So many windows at once wait for pieces that fit into what they have left."""


def example_pieces(ids: Sequence[int], end_of_document: int, window: int) -> Iterator[list[int]]:
    """Yield the pieces of an example, at most ``window`` ids each, that hold every token that is trained on once as
    such. Each begins with a token that is only read.

    ``ids``: of prompt and completion, those that are only read as -1 - id; the last one is trained on. Of a
    conversation, what stands before the first answer is its prompt.
    """
    context = next(place for place, id in enumerate(ids) if id >= 0)
    # A chat template may have written the end of document itself.
    sequence = [~end_of_document, *ids, *([] if ids[-1] == end_of_document else [end_of_document])]
    begin = first_token(context, len(sequence) - 1 - context, window - 1)
    for piece, _ in cut_into_windows(sequence, begin, context, window - 1):
        piece[0] = min(piece[0], ~piece[0])
        if max(piece) >= 0:
            yield piece


def packed(pieces: Iterable[Sequence[int]], end_of_document: int, window: int) -> Iterator[list[int]]:
    """Yield windows of exactly ``window`` ids that hold all pieces whole, one after another, and padding after them.

    A piece goes into the fullest of the open windows that has room for it. The end of document that begins a piece is
    the one that ends the piece before it. Padding is of ends of documents that are not trained on.
    """
    padding = ~end_of_document
    unfinished: list[list[int]] = []
    for piece in pieces:
        follows = piece[1:] if piece[0] == padding else piece
        fitting = [each for each in unfinished if len(each) + len(follows) <= window]
        if fitting:
            max(fitting, key=len).extend(follows)
        else:
            unfinished.append(list(piece))
        fullest = max(unfinished, key=len)
        if len(fullest) == window or len(unfinished) > OPEN_WINDOWS:
            unfinished = [each for each in unfinished if each is not fullest]
            yield [*fullest, *[padding] * (window - len(fullest))]
    for rest in unfinished:
        yield [*rest, *[padding] * (window - len(rest))]


def first_token(context: int, scored: int, window: int) -> int:
    """Return where the first window of a sequence begins, so that ``scored`` tokens after a prompt of ``context`` fit
    into it. The sequence begins with the end of document."""
    return max(0, context - (window - scored if scored <= window else window // 2))


def cut_into_windows(sequence: Sequence[int], begin: int, context: int, window: int) -> Iterator[tuple[list[int], int]]:
    """Yield the ids and the number of labels of every window, from ``begin`` on, that has labels.

    Each has at most ``window`` + 1 ids, the last of which are labels, and begins with the last id of the one before.
    """
    for start in range(begin, len(sequence) - 1, window):
        piece = list(sequence[start : start + window + 1])
        count = len(piece) - 1 - max(0, context - start)
        if count > 0:
            yield piece, count
