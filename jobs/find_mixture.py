"""What ``ray job submit`` runs: one run file on the cluster that the job was submitted to.

ray job submit --working-dir . -- python jobs/find_mixture.py jobs/quickstart.yaml storage=s3://bucket/mixray seed=1
"""

from __future__ import annotations

import sys

from mixray.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["run"]
    main()
