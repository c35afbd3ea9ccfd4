"""The run file on training and scoring: models, budgets, resources."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

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


class TrainingConfig(LoopConfig):
    """What proxies and retrained models share: a model, a token budget and how to spend it."""

    model: dict[str, Any]
    """``{architecture: NAME, ...}`` builds one from a Hugging Face config; ``{pretrained: NAME}`` continues one."""

    @model_validator(mode="after")
    def _model_kind(self) -> Self:
        if ("architecture" in self.model) == ("pretrained" in self.model):
            raise Misfit("model", "exactly one of architecture, pretrained")
        return self


class ProxyConfig(TrainingConfig):
    kind: Literal["causal_lm"] = "causal_lm"
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
