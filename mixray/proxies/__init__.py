"""Proxies: cheap models, each trained on one source alone, that score targets. One file a kind."""

from mixray.proxies.causal_lm import CausalLM
from mixray.proxies.models import build_model, count_parameters, model_identity
from mixray.proxies.protocol import Proxy, Scores

__all__ = ["CausalLM", "Proxy", "Scores", "build_model", "count_parameters", "model_identity"]
