"""The run file on training and scoring: models, budgets, resources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    JsonValue,
    ModelWrapValidatorHandler,
    SerializerFunctionWrapHandler,
    Tag,
    computed_field,
    field_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from mixray.config.section import Misfit, Positive, Section, Share

Precision = Literal["auto", "float32", "bfloat16"]


class Resources(Section):
    """What one proxy, scorer or worker asks of the cluster. Fractions are allowed; ``cpus`` is also its threads."""

    cpus: Annotated[float, Field(gt=0)] = 1
    """Logical CPUs. Fractions are allowed. Computation uses as many threads, at least one."""
    gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs. Fractions are allowed."""

    @property
    def threads(self) -> int:
        return max(1, int(self.cpus))

    @property
    def arithmetic(self) -> list[str]:
        """What of it decides the bits of results: a GPU, or several threads. Nothing for one thread on a CPU."""
        if self.gpus > 0:
            return ["gpu"]
        return [f"{self.threads} threads"] if self.threads > 1 else []


class OptimizerConfig(Section):
    """AdamW with linear warm-up and cosine decay."""

    learning_rate: Annotated[float, Field(gt=0)] = 3e-3
    """The highest learning rate, reached at the end of the warm-up."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    """Adam's decay rates of the first and second moment."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Adam's epsilon, added to the denominator."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """AdamW's decoupled weight decay, per step and unit of learning rate."""
    warmup: Share = 0.1
    """The fraction of the steps in which the learning rate rises linearly from 0."""
    final: Share = 0.1
    """The learning rate at the last step, as a fraction of the highest one."""
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    """The largest gradient norm; longer gradients are scaled down. null: no limit."""


class LoopConfig(Section):
    """What the training loop reads, whatever it trains."""

    optimizer: OptimizerConfig = OptimizerConfig()
    """AdamW's settings, with linear warm-up and cosine decay."""
    batch: Positive = 16
    """Windows (or examples) per optimizer step, over all workers."""
    micro_batch: Positive | None = None
    """Windows (or examples) per forward pass of one worker; fewer than its fraction of the batch means gradient
    accumulation. null: all of it."""
    precision: Precision = "auto"
    """auto: bfloat16 autocast on a GPU that supports it, float32 elsewhere."""
    compile: bool = False
    """Whether to compile the model with torch.compile."""
    checkpoints: Positive = 4
    """How many times the training of one model saves its state."""


class NewModel(Section):
    """A causal language model that is built from a Hugging Face config and trained from random weights.

    Every other key is a setting of the architecture's config, for example ``hidden_size: 128``.
    """

    model_config = ConfigDict(extra="allow")
    architecture: str
    """A causal language model of transformers, by its `model_type`, such as gpt_neox, gpt2 or llama."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the architecture's Hugging Face config that the run file states."""
        return dict(self.model_extra or {})


class LoRAConfig(Section):
    """Low-rank adapters (Hu et al., arXiv 2106.09685): each chosen matrix W becomes W + alpha / rank x B A, of which A
    and B alone are trained."""

    rank: Positive = 8
    """The rank of what is added to each matrix."""
    alpha: Annotated[float, Field(gt=0)] = 16
    """What is added is multiplied by alpha / rank."""
    modules: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = "all-linear"
    """The layers that get adapters. all-linear: every linear one but the output layer. Else their names, or the ends of
    their names, such as [q_proj, v_proj]."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0
    """The dropout of what the adapters read, in training."""


class PretrainedModel(Section):
    """A trained causal language model whose training is continued."""

    pretrained: str
    """A folder that `save_pretrained` wrote, or a name on the Hugging Face hub."""
    revision: str | None = None
    """A branch, tag or commit of the model on the hub. null: its main branch."""
    lora: LoRAConfig | None = None
    """Train low-rank adapters and leave the model itself as it is; {} for the default ones. null: train all of the
    model. It needs peft, which comes with the extra `mixray[lora]`."""


class HeadConfig(Section):
    """A classifier of examples."""

    head: Literal["linear", "mlp"] = "linear"
    """linear: one linear layer. mlp: hidden layers with ReLU between them."""
    hidden: Annotated[tuple[Positive, ...], Field(min_length=1)] = (32,)
    """Units of each hidden layer of an mlp. The last hidden layer is its representation."""


class TreesConfig(Section):
    """How gradient boosted trees grow. Every leaf has an L2 penalty of 1 and at least 1 of the loss's curvature."""

    library: Literal["xgboost", "lightgbm"] = "xgboost"
    """The library that trains the trees. Both come with the extra `mixray[trees]`."""
    rounds: Positive = 100
    """How many trees are added, one after another; of three classes or more, so many for each class."""
    depth: Annotated[int, Field(ge=1, le=16)] = 6
    """How many splits lead from a tree's root to a leaf, at most."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    """The factor by which every tree's values are reduced."""


class TreesModel(Section):
    """Gradient boosted trees of examples, which learn from every example at once, weighted by the mixture."""

    boosted_trees: TreesConfig
    """How the trees grow."""


_MODEL_TAGS = {
    "architecture": "new model",
    "pretrained": "pretrained model",
    "head": "classifier",
    "boosted_trees": "boosted trees",
}
"""The key that decides what kind of model a section describes -> the tag of that kind."""


def _model_tag(model: Any) -> str | None:
    """Return the tag of the kind of model, or None unless exactly one of the keys is there."""
    keys = model if isinstance(model, Mapping) else getattr(model, "model_fields_set", ())
    tags = [tag for key, tag in _MODEL_TAGS.items() if key in keys]
    return tags[0] if len(tags) == 1 else None


ModelConfig = Annotated[
    Annotated[NewModel, Tag("new model")]
    | Annotated[PretrainedModel, Tag("pretrained model")]
    | Annotated[HeadConfig, Tag("classifier")]
    | Annotated[TreesModel, Tag("boosted trees")],
    Discriminator(
        _model_tag,
        custom_error_type="kind_of_model",
        custom_error_message=f"exactly one of {', '.join(_MODEL_TAGS)}",
    ),
]


class TrainingConfig(LoopConfig):
    """What proxies and retrained models share: a model, a token budget and how to spend it."""

    model: ModelConfig
    """{architecture: NAME, ...} builds a new language model, {pretrained: NAME} continues an existing one, {head:
    linear | mlp} is a classifier of examples, {boosted_trees: {}} are gradient boosted trees of examples."""
    # Ids are made from what is dumped, and this key is younger than the first of them: the default leaves no trace.
    attention: Annotated[Literal["window", "document"], Field(exclude_if=lambda value: value == "window")] = "window"
    """What a token of a training window can see. window: everything before it. document: what stands before it in its
    own document; positions then start again with every document, as they do when a target is scored."""

    @model_validator(mode="after")
    def _only_windows_have_documents(self) -> Self:
        if self.attention == "document" and isinstance(self.model, HeadConfig | TreesModel):
            raise Misfit("attention", "left out beside head: examples are not windows of documents")
        return self

    @model_validator(mode="after")
    def _trees_have_no_steps(self) -> Self:
        if isinstance(self.model, TreesModel):
            for key, field in LoopConfig.model_fields.items():
                if getattr(self, key) != field.default:
                    raise Misfit(key, "left out beside boosted_trees, which are not trained in steps")
        return self

    @field_serializer("model", mode="wrap")
    def _stated_keys(self, model: ModelConfig, serialize: SerializerFunctionWrapHandler) -> dict[str, JsonValue]:
        # Artifact ids are made from the keys that the run file states, so that a new optional key changes none.
        stated = model.model_fields_set
        return {key: value for key, value in serialize(model).items() if key in stated}


def require_cores(resources: Resources, key: str) -> None:
    """Raise Misfit where boosted trees are to be trained on a GPU."""
    if resources.gpus:
        raise Misfit(f"{key}.gpus", "0 beside boosted_trees, which are trained on CPU cores")


class ProxyConfig(TrainingConfig):
    tokens: Positive | None = None
    """Training tokens (or examples) of each proxy. Give either `tokens` or `fraction`, but neither for boosted trees,
    which learn from every example of their source."""
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Training tokens of each proxy, as a fraction of `retrain.tokens`. Give either `tokens` or `fraction`."""
    resources: Resources = Resources()
    """CPUs and GPUs of one proxy."""
    max_restarts: Annotated[int, Field(ge=0)] = 3
    """How often the process that trains one proxy may die before the run gives up. Machines that are taken away as
    announced do not count."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def kind(self) -> Literal["causal_lm", "classifier", "boosted_trees"]:
        """The kind of model, which the ids of proxies and the names of run folders contain."""
        if isinstance(self.model, TreesModel):
            return "boosted_trees"
        return "classifier" if isinstance(self.model, HeadConfig) else "causal_lm"

    @model_validator(mode="wrap")
    @classmethod
    def _kind_is_the_models(cls, section: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        # Run files may say the kind, though the model says it too.
        if not isinstance(section, Mapping) or "kind" not in section:
            return validate(section)
        config = validate({key: value for key, value in section.items() if key != "kind"})
        if section["kind"] != config.kind:
            raise Misfit("kind", f"left out, or {config.kind} as the model is")
        return config

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        # Without this the schema would refuse resolved run files, which say the kind.
        section = handler(schema)
        properties = handler.resolve_ref_schema(section)["properties"]
        properties["kind"] = {
            "enum": ["causal_lm", "classifier", "boosted_trees"],
            "description": "The kind of model. It follows from `model` and may be left out.",
        }
        return section

    @model_validator(mode="after")
    def _budget(self) -> Self:
        if isinstance(self.model, TreesModel):
            for key in ("tokens", "fraction"):
                if getattr(self, key) is not None:
                    raise Misfit(key, "left out beside boosted_trees, which learn from every example of their source")
            require_cores(self.resources, "resources")
        elif (self.tokens is None) == (self.fraction is None):
            raise ValueError("exactly one of tokens, fraction")
        return self


class CacheConfig(Section):
    """How the prediction cache is built. None of it changes the numbers beyond rounding."""

    batch_tokens: Positive = 8192
    """Tokens per forward pass when targets are scored, padding included."""
    actors: Positive | None = None
    """Number of scoring processes. null: as many as fit on the cluster."""
    resources: Resources = Resources()
    """CPUs and GPUs of one scoring process."""
    segment: Positive | None = 16
    """Tokens of the pieces of a window whose log-probabilities are stored beside the window's. `mixture.unit` can be a
    multiple of it; the unit token needs 1. null: those of windows alone."""

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, section: Any) -> Any:
        # Run folders of earlier versions say whether they stored a log-probability for every token.
        if not isinstance(section, Mapping) or not isinstance(section.get("token_log_probs"), bool):
            return section
        rest = {key: value for key, value in section.items() if key != "token_log_probs"}
        return {"segment": 1 if section["token_log_probs"] else None} | rest
