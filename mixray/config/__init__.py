"""The run file: what it may say (schema), how it is read (loading)."""

from mixray.config.loading import dump_config, load_config, parse_config, with_overrides
from mixray.config.schema import RunConfig

__all__ = ["RunConfig", "dump_config", "load_config", "parse_config", "with_overrides"]
