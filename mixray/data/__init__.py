"""Documents -> tokens -> fixed windows, and the deterministic, resumable stream of a mixture.

Nothing here knows of Ray: parallel work is a picklable task function over picklable items, which ``prepare`` hands to
whatever mapper it is given.
"""
