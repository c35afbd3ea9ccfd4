"""The run file on data: pools of documents, tokenizers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from mixray.config.section import Globs, Misfit, Name, Positive, Section


class AnswerConfig(Section):
    """The right answer of a multiple-choice item, for ``{answer}`` in ``text``.

    ``options``: columns, one an option, or one column that holds the list of them (dots reach into structs); ``label``:
    the column with the right one's number from 0, or, where ``labels`` names a column of them, its label.
    """

    options: str | Annotated[list[str], Field(min_length=2)]
    label: str
    labels: str | None = None


Reader = Literal["files", "jsonl", "parquet", "csv", "dataset"]
READERS: tuple[Reader, ...] = get_args(Reader)


class PoolConfig(Section):
    """One pool of documents or examples: exactly one of ``files``, ``jsonl``, ``parquet``, ``csv``, ``dataset`` says
    where it is."""

    files: str | Globs | None = None
    """Text files by glob, one document a file. ``{stdlib}`` and ``{package:NAME}`` expand to installed folders."""
    jsonl: str | Globs | None = None
    """JSON lines by glob: plain, ``.gz`` or ``.zst``."""
    parquet: str | Globs | None = None
    """Parquet files by glob, or folders of them."""
    csv: str | Globs | None = None
    """CSV files with a header line, by glob, plain, ``.gz`` or ``.zst``: of examples. Each is read whole."""
    dataset: str | None = None
    """A Hugging Face data set: a hub name or a folder written by ``save_to_disk`` or readable by ``load_dataset``."""

    exclude: list[str] = []
    """Globs of files to leave out."""
    text: str = "text"
    """The column that holds the text (of all but ``files``), or a template: ``"{question} {answer}"``."""
    answer: AnswerConfig | None = None
    subset: str | None = None
    """The hub data set's configuration name."""
    split: str = "train"
    revision: str | None = None
    """The hub data set's commit; without it the newest one is looked up and its hash becomes the identity."""
    streaming: bool = False
    """Read the hub data set as it downloads, keeping no copy."""
    where: dict[str, str] = {}
    """Rows to keep: column (dots reach into structs) -> value, e.g. ``{meta.redpajama_set_name: RedPajamaC4}``."""
    max_tokens: Positive | None = None
    """Keep at most this many tokens (examples) of the pool: the first ones, in file order, equally from every part."""
    document_chars: Positive = 100_000
    """Longer documents are split into documents of at most this many characters, at line ends where there are any."""

    @property
    def reader(self) -> Reader:
        return next(kind for kind in READERS if getattr(self, kind) is not None)

    @property
    def locations(self) -> list[str]:
        value = getattr(self, self.reader)
        return [value] if isinstance(value, str) else list(value)

    @model_validator(mode="after")
    def _one_reader(self) -> Self:
        given = [kind for kind in READERS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of {', '.join(READERS)}; it has {', '.join(given) or 'none'}")
        if self.reader != "dataset" and (self.streaming or self.subset or self.revision):
            raise ValueError("streaming, subset and revision belong to 'dataset'")
        if self.reader == "files" and self.where:
            raise Misfit("where", "a source with columns; text files have none")
        if self.answer is not None and "{answer}" not in self.text:
            raise Misfit("text", "a template with {answer}, because 'answer' is given")
        if self.exclude and self.reader == "dataset":
            raise Misfit("exclude", "a source of files; a data set has none")
        return self


class SourceConfig(PoolConfig):
    """One named pool of training data."""

    natural_tokens: Positive | None = None
    """How large the source really is, where ``max_tokens`` keeps less of it: the ``natural`` arm is in proportion."""


class TargetConfig(PoolConfig):
    """One named sample of what the model should be good at."""

    held_out: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """The share of documents kept for judging the retrained models; the rest fits the mixture."""


TEXT_KEYS = ("text", "answer", "document_chars", "subset", "revision", "streaming")
"""Of a pool: what means nothing where it holds examples."""


class ExampleColumns(Section):
    """Which columns of tabular rows are inputs: ``numeric`` and ``categorical`` ones, or ``features`` alone."""

    numeric: tuple[str, ...] = ()
    """Columns of numbers, standardised with the training rows' mean and deviation."""
    categorical: tuple[str, ...] = ()
    """Columns that become one column per value of the training rows. A missing value is a value of its own; one that
    the training rows lack is none of them, all zeros, and counted in a warning."""
    features: str | None = None
    """... or one column of lists of numbers, all of one length: frozen features, for a head on top of them."""
    label: str | None = None

    @property
    def inputs(self) -> dict[str, tuple[str, ...]]:
        """Key -> the columns that it names."""
        features = () if self.features is None else (self.features,)
        return {"numeric": self.numeric, "categorical": self.categorical, "features": features}

    def check_inputs(self, not_inputs: Mapping[str, str | None]) -> None:
        """``not_inputs``: what else a column is -> which one. Raises where inputs are none, two or that."""
        if (self.features is None) != bool(self.numeric or self.categorical):
            raise ValueError("columns of inputs: numeric and categorical ones, or features alone")
        columns = [column for named in self.inputs.values() for column in named]
        for key, named in self.inputs.items():
            for column in named:
                if columns.count(column) > 1:
                    raise Misfit("categorical", f"every column once; {column!r} is named twice")
                for what, other in not_inputs.items():
                    if column == other:
                        raise Misfit(key, f"inputs; {column!r} is the {what}")


class ExamplesConfig(ExampleColumns):
    """Sources and targets hold labelled rows of a table; a row counts as one token wherever tokens are counted.

    Numbers are standardised by the mean and deviation over all sources' rows, and categories are those that the sources
    have, so adding a source changes every row that is made of them.
    """

    label: str

    @model_validator(mode="after")
    def _columns(self) -> Self:
        self.check_inputs({"label": self.label})
        return self


class TrainTokenizer(Section):
    vocab_size: Annotated[int, Field(ge=300, le=1_000_000)] = 4096
    sources: list[Name] | None = None
    """The sources it learns from; all by default. Naming them keeps the tokenizer when a source is added."""
    sample_bytes: Positive = 4_000_000
    """Bytes of text it sees, shared equally among the sources."""


class TokenizerConfig(Section):
    """Exactly one of: trained here (byte-level BPE), a hub name, a folder."""

    train: TrainTokenizer | None = None
    hub: str | None = None
    revision: str | None = None
    path: str | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum(kind is not None for kind in (self.train, self.hub, self.path)) != 1:
            raise ValueError("exactly one of train, hub, path")
        if self.revision is not None and self.hub is None:
            raise Misfit("revision", "a tokenizer of the hub")
        return self
