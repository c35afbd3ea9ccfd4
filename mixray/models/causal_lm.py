"""A causal language model from Hugging Face transformers that is trained on windows and scores rows of token ids."""

from __future__ import annotations

from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from mixray.config.training import Precision, PretrainedModel
from mixray.errors import InputError
from mixray.models.building import (
    BASE_MODEL,
    LanguageModel,
    build_model,
    load_adapters,
    quieten,
    save_adapters,
)
from mixray.models.protocol import Network, Scores
from mixray.models.scoring import Rows, TokenRows, score
from mixray.training import autocast
from mixray.training.batch import without_marks
from mixray.training.loss import IGNORED, NextTokenLoss, NextTokenNll

if TYPE_CHECKING:
    from transformers import PreTrainedModel


SCORED_TOKENS = 8192
"""Tokens per forward pass when training windows are scored."""


class CausalLM(Network):
    """A model whose rows are sequences of token ids; a row's log-probability is that of its last ``count`` ids."""

    row_columns = ("tokens", "count")
    network: PreTrainedModel
    adapts: PretrainedModel | None = None
    """The pretrained model that adapters are trained for, where they alone are trained."""

    @classmethod
    def create(
        cls,
        config: LanguageModel,
        *,
        vocab_size: int,
        window: int,
        seed: int,
        device: torch.device,
        precision: Precision = "auto",
        bos_id: int | None = None,
        eos_id: int | None = None,
        separate_documents: bool = False,
    ) -> Self:
        """Return a model that is untrained, or pretrained; see ``build_model`` for arguments and errors.

        ``separate_documents``: in training no token sees a document before its own; ``eos_id`` begins a document.
        """
        network = build_model(config, vocab_size=vocab_size, window=window, seed=seed, bos_id=bos_id, eos_id=eos_id)
        model = cls(network, device=device, precision=precision)
        if isinstance(config, PretrainedModel) and config.lora is not None:
            model.adapts = config
        model.loss = partial(NextTokenLoss, end_of_document=eos_id if separate_documents else None)
        return model

    def judge_against(self, reference: CausalLM) -> None:
        """From now on judge training rows by how far their tokens' losses are above those of ``reference``."""
        reference.network.eval()
        self.loss = partial(self.loss or NextTokenLoss, reference=reference._nll)

    @classmethod
    def load(cls, folder: Path, *, device: torch.device, precision: Precision = "auto") -> Self:
        from transformers import AutoModelForCausalLM

        quieten()
        if (folder / BASE_MODEL).is_file():
            network = load_adapters(folder)
        else:
            network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
        return cls(network, device=device, precision=precision)

    def save(self, folder: Path) -> None:
        """Write what transformers loads: ``config.json``, ``generation_config.json`` and ``model.safetensors``, or
        ``adapter_config.json`` and ``adapter_model.safetensors`` alone."""
        if self.adapts is None:
            self.network.save_pretrained(folder)
        else:
            save_adapters(self.network, self.adapts, folder)

    @staticmethod
    def rows_of(table: Any) -> TokenRows:
        return TokenRows([row.values.to_numpy() for row in table["tokens"]], table["count"].to_numpy().astype(np.int64))

    def training_losses(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the mean loss of the predicted tokens of every window that are trained on, nats.

        ``rows``: int64 (windows, window), with marks where windows hold prompts: see ``data.text.completions``.
        """
        ids, is_trained = without_marks(rows)
        if not is_trained[:, 1:].all():
            return self._marked_losses(ids, is_trained[:, 1:])
        totals = self.log_probs(list(ids), batch_tokens=SCORED_TOKENS).totals
        losses: NDArray[np.float64] = -totals / (rows.shape[1] - 1)
        return losses

    def _marked_losses(self, ids: NDArray[np.int64], is_trained: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the mean loss of every window's tokens that are trained on. ``is_trained``: (windows, window - 1)."""
        self.network.eval()
        labels, sums = np.where(is_trained, ids[:, 1:], IGNORED), []
        at_once = max(1, SCORED_TOKENS // ids.shape[1])
        with torch.inference_mode(), autocast(self.device, self.precision):
            for first in range(0, len(ids), at_once):
                part = slice(first, first + at_once)
                nll = self._nll(torch.from_numpy(ids[part, :-1]), torch.from_numpy(labels[part]))
                sums.append(nll.double().sum(1).cpu().numpy())
        losses: NDArray[np.float64] = np.concatenate(sums) / np.maximum(is_trained.sum(1), 1)
        return losses

    def log_probs(self, rows: Rows | TokenRows, *, batch_tokens: int, segment: int | None = None) -> Scores:
        """Score rows of n + 1 ids, 1 <= n <= window; see ``mixray.models.scoring.score``. Of sequences alone every id
        after the first counts.

        Raises InputError for a row that is longer than the model can read or holds an id that it does not know.
        """
        rows = rows if isinstance(rows, TokenRows) else TokenRows.whole(rows)
        self._check(rows.ids)
        self.network.eval()
        return score(self._nll, rows, batch_tokens=batch_tokens, precision=self.precision, segment=segment)

    @cached_property
    def _nll(self) -> NextTokenNll:
        return NextTokenNll(self.network, self.device)

    def _check(self, rows: Rows) -> None:
        # On a GPU an index out of range kills the process' CUDA context without naming anything.
        positions = getattr(self.network.config, "max_position_embeddings", None)
        vocabulary = self.network.config.vocab_size
        for index, row in enumerate(rows):
            if positions is not None and len(row) - 1 > positions:
                raise InputError(
                    "a row is too long", got=f"row {index}: {len(row)} ids", wanted=f"at most {positions + 1}"
                )
            if len(row) and not 0 <= int(row.min()) <= int(row.max()) < vocabulary:
                raise InputError(
                    "a row holds a token id that is not in the model's vocabulary",
                    got=f"row {index}: ids {row.min()} to {row.max()}",
                    wanted=f"0 to {vocabulary - 1}",
                    remedy="score with the tokenizer that the model was trained with",
                )
