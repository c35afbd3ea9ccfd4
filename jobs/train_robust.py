"""Classifiers of grouped rows under several objectives, side by side. Without a file: digits with a shortcut.

python jobs/train_robust.py [FILE] [key=value ...]
ray job submit --working-dir . -- python jobs/train_robust.py jobs/robust_adult.yaml storage=s3://bucket/mixray seeds=5
"""

from __future__ import annotations

import sys
from pathlib import Path

from mixray.errors import InputError, MixrayError
from mixray.progress import open_progress
from mixray.robust_pipeline import train_robust


def main(arguments: list[str]) -> int:
    file = Path(__file__).with_name("robust_digits.yaml")
    if arguments and "=" not in arguments[0]:
        file = Path(arguments.pop(0))
    try:
        train_robust(file, arguments, progress=open_progress()).print()
    except MixrayError as error:
        print(f"mixray: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
