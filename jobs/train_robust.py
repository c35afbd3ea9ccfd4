"""What ``ray job submit`` runs for classifiers of grouped rows. Without a file: digits with a shortcut.

python jobs/train_robust.py [FILE] [key=value ...]
ray job submit --working-dir . -- python jobs/train_robust.py jobs/robust_adult.yaml storage=s3://bucket/mixray seeds=5
"""

from __future__ import annotations

import sys
from pathlib import Path

from mixray.cli import main

if __name__ == "__main__":
    if len(sys.argv) < 2 or "=" in sys.argv[1] or sys.argv[1].startswith("-"):
        sys.argv.insert(1, str(Path(__file__).with_name("robust_digits.yaml")))
    sys.argv.insert(1, "run")
    main()
