"""Commands of ``mixray`` that have files of their own, and the arguments that commands share."""
