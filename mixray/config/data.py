"""The run file on data: pools of documents, tokenizers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Literal, Self, get_args

from pydantic import BeforeValidator, Field, model_validator

from mixray.config.section import Globs, Misfit, Name, Positive, Section


def written(value: object) -> str | None:
    """Return a value as a run file writes it, None for values that it cannot write.

    Text stays as it is; numbers and booleans are as in JSON, dates as 2024-01-31 and times as 2024-01-31 12:30:00.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, date | Decimal):
        return str(value)
    return json.dumps(value) if isinstance(value, bool | int | float) else None


def _written(value: object) -> object:
    text = written(value)
    return value if text is None else text


class AnswerConfig(Section):
    """The right answer of a multiple-choice item, for ``{answer}`` in ``text`` or ``completion``."""

    options: str | Annotated[list[str], Field(min_length=2)]
    """The columns that hold the options, one each, or the one column that holds the list of them. Dots reach into
    structs. In `completion`, null and blank ones do not count as options."""
    label: str
    """The column with the number of the right option, counted from 0, or with its label where `labels` is set."""
    labels: str | None = None
    """The column with the list of the options' labels, such as [A, B, C, D]. null: the label is a number."""


Reader = Literal["files", "jsonl", "parquet", "csv", "dataset"]
READERS: tuple[Reader, ...] = get_args(Reader)


def one_reader(readers: Sequence[str]) -> str:
    """Return what a pool needs that has these readers."""
    return f"exactly one of {', '.join(READERS)}; it has {', '.join(readers) or 'none'}"


class PoolConfig(Section):
    """One pool of documents or examples: exactly one of ``files``, ``jsonl``, ``parquet``, ``csv``, ``dataset`` says
    where it is."""

    files: str | Globs | None = None
    """Text files by glob, one document per file. {stdlib} and {package:NAME} stand for folders of the Python
    installation."""
    jsonl: str | Globs | None = None
    """JSON lines files by glob: plain, .gz, .zst, .bz2 or .xz."""
    parquet: str | Globs | None = None
    """Parquet files by glob, or folders of them as Spark, Hive and others write them."""
    csv: str | Globs | None = None
    """CSV files of examples by glob, each with a header line: plain, .gz, .zst, .bz2 or .xz. Every file is read whole
    into memory."""
    dataset: str | None = None
    """A Hugging Face data set: its name on the hub, or a folder that `save_to_disk` wrote or `load_dataset` can
    read."""

    exclude: list[str] = []
    """Globs of files to leave out."""
    text: str = "text"
    """The column that holds the text, or a template such as "{question} {answer}". Not used for `files`."""
    # Ids are made from what is dumped, and these keys are younger than the first of them: defaults leave no trace.
    prompt: Annotated[str | None, Field(exclude_if=lambda value: value is None)] = None
    """The column that holds the prompt, or a template such as "Question: {question} Answer:". Models read it before
    they predict `completion`, and it counts no loss. A prompt that does not fit into the window is cut at its
    beginning. Used with `completion`, in place of `text`."""
    completion: Annotated[str | None, Field(exclude_if=lambda value: value is None)] = None
    """The column that holds what shall follow the prompt, or a template such as " {answer}", which begins with the
    space that stands after the prompt. Losses are those of its tokens alone; rows whose completion is empty are left
    out. Of a target with `answer`, the loss is that of the right option, and the retrained models are also judged by
    how often they find it the likeliest."""
    system: Annotated[str | None, Field(exclude_if=lambda value: value is None)] = None
    """The column, or a template, of the system message before `prompt`. Needs `chat_template`."""
    messages: Annotated[str | None, Field(exclude_if=lambda value: value is None)] = None
    """The column that holds conversations: lists of {role, content} that end with an answer of the assistant. Sources
    are trained on all of its answers; of a target the last one is the completion, and what stands before it is the
    prompt. Needs `chat_template`, and takes the place of `prompt` and `completion`."""
    chat_template: Annotated[bool, Field(exclude_if=lambda value: not value)] = False
    """Whether the tokenizer's own chat template is put around prompt and completion: the prompt is what the user says,
    the completion what the assistant answers. Needs a tokenizer that has one, by `tokenizer.hub` or `path`."""
    answer: AnswerConfig | None = None
    """The right answer of a multiple-choice item, for {answer} in `text` or `completion`."""
    subset: str | None = None
    """The configuration name of a data set on the hub. null: its only one."""
    split: str = "train"
    """The split of the data set to read."""
    revision: str | None = None
    """The commit of the data set on the hub. null: the newest one; its hash becomes part of the identity."""
    streaming: bool = False
    """Whether to read the data set while it downloads, without keeping a copy."""
    where: dict[str, Annotated[str, BeforeValidator(_written)]] = {}
    """Which rows to keep: column -> value. Dots reach into structs, e.g. {meta.redpajama_set_name: RedPajamaC4}.
    Numbers, booleans, dates (2024-01-31) and times (2024-01-31 12:30:00) are compared as they are written here. The
    folders of Parquet files that are named key=value are columns, too."""
    max_tokens: Positive | None = None
    """Use at most this many tokens (or examples): of a source the first ones of every part, in equal amounts; of a
    target a sample of all of it (of texts whole documents, of which the one that reaches the number is the last). null:
    all."""
    # Ids are made from what is dumped, and this key is younger than the first of them: the default leaves no trace.
    label: Annotated[str | None, Field(exclude_if=lambda value: value is None)] = None
    """The column with the labels of this pool of examples, in place of `examples.label`. Rows without one are left
    out."""
    document_chars: Positive = 100_000
    """Longer documents are split into documents of at most this many characters, at line ends where possible. Those of
    a target that were split from one stay in one part, and intervals count them once. Completions are never split."""

    @property
    def reader(self) -> Reader:
        return next(kind for kind in READERS if getattr(self, kind) is not None)

    @property
    def locations(self) -> list[str]:
        value = getattr(self, self.reader)
        return [value] if isinstance(value, str) else list(value)

    @property
    def _role(self) -> str:
        return "target" if isinstance(self, TargetConfig) else "source"

    @property
    def has_completions(self) -> bool:
        """Whether every text is a prompt with a completion, of which the completion alone counts."""
        return self.completion is not None or self.messages is not None

    @property
    def templates(self) -> dict[str, str]:
        """Key -> the column or template that it names, of everything that a row's text is made of, in its order."""
        if self.messages is not None:
            return {"messages": self.messages}
        if self.prompt is None or self.completion is None:
            return {"text": self.text}
        system = {} if self.system is None else {"system": self.system}
        return {**system, "prompt": self.prompt, "completion": self.completion}

    @model_validator(mode="after")
    def _one_reader(self) -> Self:
        readers = [kind for kind in READERS if getattr(self, kind) is not None]
        if isinstance(self, TargetConfig) and not readers and self.model_fields_set:
            return self  # the run file knows whether it is each_source
        if len(readers) != 1:
            raise ValueError(one_reader(readers))
        if self.reader != "dataset" and (self.streaming or self.subset or self.revision):
            raise ValueError("streaming, subset and revision belong to 'dataset'")
        if self.reader == "files" and self.where:
            raise Misfit("where", f"a {self._role} with columns; text files have none")
        key, template = list(self.templates.items())[-1]
        if self.answer is not None and "{answer}" not in template:
            raise Misfit(key, "a template with {answer}, because 'answer' is given")
        if self.exclude and self.reader == "dataset":
            raise Misfit("exclude", f"a {self._role} of files; a data set has none")
        return self

    @model_validator(mode="after")
    def _prompt_and_completion(self) -> Self:
        if not self.has_completions and self.prompt is None:
            for key in ("system", "chat_template"):
                if getattr(self, key):
                    raise Misfit(key, "left out beside 'text': it is for 'prompt' and 'completion', or 'messages'")
            return self
        if self.messages is not None:
            for key in ("prompt", "completion", "system", "answer"):
                if getattr(self, key) is not None:
                    raise Misfit(key, "left out beside 'messages'")
        for key in ("system", "messages"):
            if getattr(self, key) is not None and not self.chat_template:
                raise Misfit("chat_template", f"true beside '{key}': the template says how messages are written")
        for key, other in (("prompt", "completion"), ("completion", "prompt")):
            if self.messages is None and getattr(self, key) is None:
                raise Misfit(key, f"a column or a template, because '{other}' is given")
        first = next(iter(self.templates))
        if self.text != PoolConfig.model_fields["text"].default:
            raise Misfit("text", f"left out beside {' and '.join(map(repr, self.templates))}")
        readers = [kind for kind in READERS if getattr(self, kind) is not None]
        if readers and readers[0] not in ("jsonl", "parquet", "dataset"):
            raise Misfit(first, f"a {self._role} with columns; '{readers[0]}' has none for it")
        if self.answer is not None and "{answer}" in str(self.prompt):
            raise Misfit("prompt", "a template without {answer}, which 'completion' has")
        return self


class SourceConfig(PoolConfig):
    """One named pool of training data."""

    natural_tokens: Positive | None = None
    """The real size of the source in tokens (or examples), where `max_tokens` keeps less of it. Natural shares are in
    proportion to it. null: the size that was read."""
    # Ids are made from what is dumped, and these keys are younger than the first of them: defaults leave no trace.
    labels: Annotated[str | Globs | None, Field(exclude_if=lambda value: value is None)] = None
    """Patterns of columns, such as "*" or [NR-*, SR-*]: the source stands for as many sources as the table has columns
    of labels that match, each with the rows that have its label and named as its column. "*" leaves out columns of
    text."""
    min_rows: Annotated[Positive, Field(exclude_if=lambda value: value == 1)] = 1
    """Beside `labels`: columns with fewer labels are left out."""
    min_positive: Annotated[Positive, Field(exclude_if=lambda value: value == 1)] = 1
    """Beside `labels`: columns are left out unless two classes have so many labels each."""
    without_held_out_of: Annotated[Name | None, Field(exclude_if=lambda value: value is None)] = None
    """The target whose held-out rows are left out of this source's training rows."""

    @model_validator(mode="after")
    def _one_table(self) -> Self:
        if self.labels is None:
            for key in ("min_rows", "min_positive"):
                if getattr(self, key) != 1:
                    raise Misfit(key, "left out where 'labels' is not given")
            return self
        for key in ("label", "natural_tokens", "without_held_out_of"):
            if getattr(self, key) is not None:
                raise Misfit(key, "left out beside 'labels', which stands for many sources")
        if self.where:
            raise Misfit("where", "left out beside 'labels': every row with a label counts")
        return self


class TargetConfig(PoolConfig):
    """One named sample of what the model should be good at."""

    held_out: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """The fraction of the documents that is held out to judge the retrained models. The rest determines the mixture."""
    # Ids are made from what is dumped, and these keys are younger than the first of them: defaults leave no trace.
    leave_out: Annotated[Name | None, Field(exclude_if=lambda value: value is None)] = None
    """The source that has no share in this target's mixtures."""
    held_out_of: Annotated[Literal["all", "target"], Field(exclude_if=lambda value: value == "all")] = "all"
    """Of molecules, and of a target that leaves a source out. all: every target with the same `held_out` holds out the
    same inputs, so that no source is trained on them. target: every target draws its own, and other sources may have
    rows with the same inputs and labels of their own."""
    held_out_by: Annotated[Literal["molecule", "scaffold"], Field(exclude_if=lambda value: value == "molecule")] = (
        "molecule"
    )
    """Of molecules. molecule: every molecule falls into one part. scaffold: so do all molecules with the same
    Bemis-Murcko scaffold, the rings and what links them, so that the held-out ones are of other kinds than those that
    are trained on. `held_out` is then the fraction of the scaffolds; a molecule without rings has none, and falls for
    itself. Intervals count molecules with the same scaffold as one."""
    sample: Annotated[Positive | None, Field(exclude_if=lambda value: value is None)] = None
    """Of `each_source`: for how many of the targets models are retrained, drawn by the seed. null: for all."""
    is_retrained: Annotated[bool, Field(exclude_if=lambda value: value)] = True
    """Whether models are retrained for this target."""

    @property
    def is_each_source(self) -> bool:
        """Whether it stands for every source in turn: the target ``each_source``, which has no data of its own."""
        return not any(getattr(self, kind) is not None for kind in READERS)


def check_pools(
    sources: Mapping[str, SourceConfig], targets: Mapping[str, TargetConfig], *, has_examples: bool
) -> None:
    """Check the names that pools have of each other, and what stands for many pools. Raises Misfit."""
    for name, target in targets.items():
        if not target.is_each_source and target.sample is not None:
            raise Misfit(f"targets.{name}.sample", "left out: only the target each_source has it")
        if target.is_each_source and name != "each_source":
            raise Misfit(f"targets.{name}", one_reader([]))
        if target.is_each_source:
            set_keys = target.model_dump(exclude_defaults=True).keys() - {
                "held_out",
                "held_out_of",
                "held_out_by",
                "sample",
            }
            if set_keys:
                raise Misfit(f"targets.{name}.{min(set_keys)}", "left out: each target has the rows of its source")
        if target.leave_out is not None and (target.leave_out not in sources or len(sources) < 2):
            raise Misfit(f"targets.{name}.leave_out", f"one of two sources or more: {', '.join(sources)}")
        if not target.is_retrained and target.leave_out is None:
            raise Misfit(
                f"targets.{name}.is_retrained", "true; only of targets that leave sources out a sample will do"
            )
        if not has_examples and target.held_out_by != "molecule":
            raise Misfit(f"targets.{name}.held_out_by", "left out: texts have no scaffolds")
        if not has_examples and (target.is_each_source or target.leave_out is not None):
            raise Misfit(f"targets.{name}", "a target of texts; only sources of examples are left out")
    for name, source in sources.items():
        if source.without_held_out_of not in (None, *targets):
            raise Misfit(f"sources.{name}.without_held_out_of", f"the name of a target: {', '.join(targets)}")
        if source.labels is not None and not has_examples:
            raise Misfit(f"sources.{name}.labels", "left out: only a run file with examples has labels")


TEXT_KEYS = (
    *("text", "prompt", "completion", "system", "messages", "chat_template", "answer"),
    *("document_chars", "subset", "revision", "streaming"),
)
"""Of a pool: what means nothing where it holds examples."""


class ExampleColumns(Section):
    """Which columns of tabular rows are inputs: ``numeric`` and ``categorical`` ones, or ``features`` alone."""

    numeric: tuple[str, ...] = ()
    """Columns of numbers, which are standardised with the mean and deviation of the training rows."""
    categorical: tuple[str, ...] = ()
    """Columns of categories, each encoded as one 0/1 column per value in the training rows. A missing value is a
    category of its own. A value that the training rows lack becomes all zeros and is counted in a warning."""
    features: str | None = None
    """The one column that holds lists of numbers, all of the same length, such as embeddings. Used in place of
    `numeric` and `categorical`."""
    label: str | None = None
    """The column that holds the class to predict."""

    @property
    def inputs(self) -> dict[str, tuple[str, ...]]:
        """Key -> the columns that it names."""
        features = () if self.features is None else (self.features,)
        return {"numeric": self.numeric, "categorical": self.categorical, "features": features}

    def check_inputs(self, not_inputs: Mapping[str, str | None]) -> None:
        """Check that the inputs are of one sort, and that no column is named twice.

        ``not_inputs``: what another column is -> its name. Raises ValueError, or Misfit where one key is wrong.
        """
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


class FingerprintConfig(Section):
    """How a molecule becomes numbers: which substructures it has, each folded into one of the bits."""

    kind: Literal["morgan"] = "morgan"
    """morgan: the surroundings of every atom (extended-connectivity fingerprints), by RDKit."""
    radius: Annotated[int, Field(ge=0, le=10)] = 2
    """How many bonds the surroundings of an atom reach."""
    bits: Annotated[int, Field(ge=16, le=65536)] = 2048
    """The length of the fingerprint. Substructures that fall on the same bit are not told apart."""
    counts: bool = False
    """Whether a bit counts how often its substructures occur, or only says that they do."""


class ExamplesConfig(ExampleColumns):
    """Sources and targets hold labelled rows of a table; a row counts as one token wherever tokens are counted.

    Numbers are standardised by the mean and deviation over all sources' rows, and categories are those that the sources
    have, so adding a source changes every row that is made of them.
    """

    # Ids are made from what is dumped, and some keys are younger than the first of them: their defaults leave no trace.
    label: str | None = None
    """The column that holds the class to predict, or the number where `task` is regression. Required, unless every
    source and target names its own."""
    task: Annotated[
        Literal["classification", "regression"], Field(exclude_if=lambda value: value == "classification")
    ] = "classification"
    """classification: the label is a class, and losses are cross entropies. regression: it is a number, losses are
    squared errors, and models are boosted trees."""
    smiles: Annotated[str | None, Field(exclude_if=lambda value: value is None)] = None
    """The column that holds molecules as SMILES, whose fingerprints are the inputs. Used in place of `numeric`,
    `categorical` and `features`. It needs RDKit, which comes with the extra `mixray[chemistry]`. Rows that RDKit cannot
    read are left out and counted in a warning."""
    fingerprint: Annotated[FingerprintConfig, Field(exclude_if=lambda value: value == FingerprintConfig())] = (
        FingerprintConfig()
    )
    """How a molecule becomes numbers, where `smiles` is given."""

    @property
    def inputs(self) -> dict[str, tuple[str, ...]]:
        return {"smiles": (self.smiles,)} if self.smiles is not None else super().inputs

    @model_validator(mode="after")
    def _columns(self) -> Self:
        if self.smiles is None:
            if self.fingerprint != FingerprintConfig():
                raise Misfit("fingerprint", "left out where 'smiles' is not given")
            self.check_inputs({"label": self.label})
            return self
        for key, columns in super().inputs.items():
            if columns:
                raise Misfit(key, "left out beside 'smiles', whose fingerprints are the inputs")
        if self.smiles == self.label:
            raise Misfit("smiles", f"inputs; {self.smiles!r} is the label")
        return self


class TrainTokenizer(Section):
    vocab_size: Annotated[int, Field(ge=300, le=1_000_000)] = 4096
    """Number of tokens in the vocabulary."""
    sources: list[Name] | None = None
    """The sources whose text the tokenizer is trained on. null: all. With a list, the tokenizer stays the same when a
    source is added."""
    sample_bytes: Positive = 4_000_000
    """Bytes of text that the tokenizer is trained on, in equal amounts per source."""


class TokenizerConfig(Section):
    """Exactly one of: trained here (byte-level BPE), a hub name, a folder."""

    train: TrainTokenizer | None = None
    """Train a byte-level BPE tokenizer on the sources."""
    hub: str | None = None
    """The name of a tokenizer on the Hugging Face hub."""
    revision: str | None = None
    """The commit of the tokenizer on the hub. null: the newest one."""
    path: str | None = None
    """A folder that holds a tokenizer."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum(kind is not None for kind in (self.train, self.hub, self.path)) != 1:
            raise ValueError("exactly one of train, hub, path")
        if self.revision is not None and self.hub is None:
            raise Misfit("revision", "a tokenizer of the hub")
        return self
