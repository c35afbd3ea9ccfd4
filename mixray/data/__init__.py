"""Documents -> tokens -> fixed windows, and the deterministic, resumable stream of a mixture.

Nothing here knows of Ray: parallel work is a picklable task function over picklable items, which ``prepare`` hands to
whatever mapper it is given.
"""

from mixray.data.check import InputCheck, InputWarning, check_inputs
from mixray.data.pools import ExampleInputs, ModelInputs, Prepared, TextInputs
from mixray.data.prepare import prepare
from mixray.data.stream import MixtureStream
from mixray.data.tabular.examples import look_ahead
from mixray.data.tabular.molecules import molecule_features
from mixray.data.text.tokenizer import vocabulary
from mixray.data.training_rows import ExampleRows, TrainingRows, Windows, group_shares, open_rows

__all__ = [
    "ExampleInputs",
    "ExampleRows",
    "InputCheck",
    "InputWarning",
    "MixtureStream",
    "ModelInputs",
    "Prepared",
    "TextInputs",
    "TrainingRows",
    "Windows",
    "check_inputs",
    "group_shares",
    "look_ahead",
    "molecule_features",
    "open_rows",
    "prepare",
    "vocabulary",
]
