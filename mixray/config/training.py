"""The run file on training and scoring: models, budgets, resources."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from mixray.config.section import Misfit, Positive, Section, Share


class Resources(Section):
    """What one proxy, scorer or worker asks of the cluster. Fractions are allowed; ``cpus`` is also its threads."""

    cpus: Annotated[float, Field(gt=0)] = 1
    gpus: Annotated[float, Field(ge=0)] = 0

    @property
    def threads(self) -> int:
        return max(1, int(self.cpus))


class OptimizerConfig(Section):
    """AdamW with linear warm-up and cosine decay."""

    learning_rate: Annotated[float, Field(gt=0)] = 3e-3
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    warmup: Share = 0.1
    """Share of the steps over which the learning rate rises linearly."""
    final: Share = 0.1
    """Learning rate at the end, as a share of the peak."""
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest gradient norm."""


class LoopConfig(Section):
    """What the training loop reads, whatever it trains."""

    optimizer: OptimizerConfig = OptimizerConfig()
    batch: Positive = 16
    """Windows (or rows) per optimiser step, over all workers."""
    micro_batch: Positive | None = None
    """Windows per forward pass of one worker; smaller than its share of the batch means gradient accumulation."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """``auto``: bfloat16 autocast on a GPU that has it, float32 elsewhere."""
    compile: bool = False
    """``torch.compile`` the model."""
    checkpoints: Positive = 4
    """How many times a training run saves its state on the way."""


class HeadConfig(Section):
    head: Literal["linear", "mlp"] = "linear"
    hidden: Annotated[tuple[Positive, ...], Field(min_length=1)] = (32,)
    """Units of the hidden layers of an mlp, ReLU between them; the last one is its representation."""


MODEL_KINDS = ("architecture", "pretrained", "head")


class TrainingConfig(LoopConfig):
    """What proxies and retrained models share: a model, a token budget and how to spend it."""

    model: dict[str, Any]
    """``{architecture: NAME, ...}``: a language model built from a Hugging Face config; ``{pretrained: NAME}``: one
    to be continued; ``{head: linear | mlp, hidden: [32]}``: a classifier of examples."""

    @property
    def head(self) -> HeadConfig | None:
        """The classifier; None where the model is a language model."""
        return HeadConfig.model_validate(self.model) if "head" in self.model else None

    @model_validator(mode="after")
    def _model_kind(self) -> Self:
        if sum(key in self.model for key in MODEL_KINDS) != 1:
            raise Misfit("model", f"exactly one of {', '.join(MODEL_KINDS)}")
        try:
            _ = self.head
        except ValidationError as error:
            fault = error.errors()[0]
            raise Misfit(".".join(["model", *map(str, fault["loc"])]), fault["msg"]) from error
        return self


class ProxyConfig(TrainingConfig):
    kind: Literal["causal_lm", "classifier"] = "causal_lm"
    """``classifier``: where the run file has ``examples``."""
    tokens: Positive | None = None
    """Training tokens per source."""
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """... or this share of the retraining tokens per source."""
    resources: Resources = Resources()
    max_restarts: Annotated[int, Field(ge=0)] = 3
    """How often one proxy's actor may die before the run gives up on it."""

    @model_validator(mode="after")
    def _budget(self) -> Self:
        if (self.tokens is None) == (self.fraction is None):
            raise ValueError("exactly one of tokens, fraction")
        return self


class CacheConfig(Section):
    """How the prediction cache is built. None of it changes the numbers beyond rounding."""

    batch_tokens: Positive = 8192
    """Tokens per forward pass, padding included."""
    actors: Positive | None = None
    """Scoring actors; as many as fit by default."""
    resources: Resources = Resources()
    token_log_probs: bool = False
    """Keep per-token values too (needed for ``mixture.unit: token``)."""
