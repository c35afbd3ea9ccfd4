"""Training for the worst group: Group DRO, ALSO, and the measures that say what they did.

``alignment``, ``linear_heads`` and ``completeness`` are imported by their names: they bring scipy and scikit-learn.
"""

from mixray.robust.also import ALSO
from mixray.robust.group_dro import GroupDRO
from mixray.robust.group_losses import presence_probability
from mixray.robust.objective import ALSOObjective, DoReMiObjective, GroupDROObjective, new_objective

__all__ = [
    "ALSO",
    "ALSOObjective",
    "DoReMiObjective",
    "GroupDRO",
    "GroupDROObjective",
    "new_objective",
    "presence_probability",
]
