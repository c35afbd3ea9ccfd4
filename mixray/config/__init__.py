"""The run file: what it may say (schema), how it is read (loading)."""

from mixray.config.loading import dump_config, load_config, parse_config
from mixray.config.robust import RobustConfig
from mixray.config.schema import RunConfig
from mixray.config.section import RunFile

__all__ = ["RobustConfig", "RunConfig", "RunFile", "dump_config", "load_config", "parse_config"]
