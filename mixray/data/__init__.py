"""Documents -> tokens -> fixed windows, and the deterministic, resumable stream of a mixture.

Nothing here knows of Ray: parallel work is a picklable task function over picklable items, which ``prepare`` hands to
whatever mapper it is given.
"""

from mixray.data.check import check_inputs
from mixray.data.prepare import Prepared, prepare
from mixray.data.stream import MixtureStream
from mixray.data.tokenizer import vocabulary
from mixray.data.windows import Windows

__all__ = ["MixtureStream", "Prepared", "Windows", "check_inputs", "prepare", "vocabulary"]
