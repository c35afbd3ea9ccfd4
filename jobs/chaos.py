"""One small run on a cluster of several machines under fire, compared with the same run undisturbed.

    python -m jobs.chaos --strikes 30 --seed 0        (from the root of a checkout with mixray[test], on Linux)

A strike kills a worker process, a machine (at once or as announced), the process that drives the run, or MLflow's
server, or lets the storage (an S3 server on this computer) refuse or dawdle. Strikes come at random, seeded times, and
once in every stage as soon as it begins. A command that has died is given again. In the end the mixtures, all
artifacts, the cache's rows and MLflow's runs must be those of the undisturbed run, and the optimizer steps of all
processes are counted against its.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import yaml

from jobs.chaos_comparison import differences
from jobs.chaos_machines import Machines, StepCounter
from jobs.chaos_strikes import KINDS, STAGES, Chaos, Command, Strike
from tests.end_to_end.conftest import small_run
from tests.store.faulty_s3 import S3_ENVIRONMENT, FaultyS3, s3_server
from tests.tracking.server import Server

BATCH, WINDOW = 8, 32
QUIET = {
    **S3_ENVIRONMENT,
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "OMP_NUM_THREADS": "1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


def run_file(folder: Path, steps: int) -> Path:
    """Write the run: three sources, two targets, a small swarm, two arms on two workers each."""
    path = small_run(folder, swarm={"mixtures": 2, "forecast": False, "tokens": steps // 10 * BATCH * WINDOW})
    content = yaml.safe_load(path.read_text())
    training = {"tokens": steps * BATCH * WINDOW, "checkpoints": 50}
    content["proxy"] |= {**training, "max_restarts": 100}
    content["cache"] |= {"actors": 2}
    content["mixture"] |= {"shards": {"actors": 2, "memory": 2**24}}
    content["retrain"] |= {**training, "max_failures": 100, "workers": 2}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def table(strikes: list[Strike]) -> str:
    """Count the strikes by stage, kind and outcome."""
    rows = Counter((strike.stage, strike.kind, strike.outcome) for strike in strikes)
    order = ["start", *STAGES]
    lines = ["| stage | struck | times | what happened |", "|---|---|---|---|"]
    for stage, kind, outcome in sorted(rows, key=lambda row: (order.index(row[0]), row[1:])):
        lines.append(f"| {stage} | {kind} | {rows[stage, kind, outcome]} | {outcome} |")
    return "\n".join(lines)


@contextmanager
def faulty_s3() -> Iterator[FaultyS3]:
    """Yield a proxy of an S3 server that has the bucket ``bucket``."""
    with s3_server() as address:
        proxy = FaultyS3(address)
        yield proxy
        proxy.close()


def chaos(options: argparse.Namespace, folder: Path, short: Path) -> int:
    """Make both runs, print what happened, and return 0 if no command failed and both ended alike."""
    path, counter = run_file(folder / "data", options.steps), StepCounter(folder)
    (folder / "server").mkdir()
    server = Server(folder / "server")
    with ExitStack() as stack:
        machines = stack.enter_context(Machines(short, 3, counter.environment))
        stack.callback(server.stop)
        server.start()
        storage = None if options.local else stack.enter_context(faulty_s3())
        places = {name: str(folder / name) for name in ("undisturbed", "disturbed")}
        if storage is not None:
            uri = f"s3://bucket/disturbed?endpoint_override=http://{storage.upstream}&scheme=http&region=us-east-1"
            places["disturbed"] = storage.uri(uri)
        databases = {"undisturbed": f"sqlite:///{folder}/undisturbed.db", "disturbed": server.uri}
        arguments = {
            name: [str(path), f"storage={place}", f"tracking.uri={databases[name]}", "--address", machines.address]
            for name, place in places.items()
        }
        started, log = time.monotonic(), folder / "undisturbed.log"
        with Command(arguments["undisturbed"], counter.environment, log) as command:
            assert command.end() == 0, log.read_text()
        steps = counter.total()
        print(f"undisturbed: {time.monotonic() - started:.0f} s, {steps:,} optimizer steps", flush=True)
        draw = np.random.default_rng(options.seed)
        fire = Chaos(machines, server, storage, options.strikes, draw, options.kinds)
        started = time.monotonic()
        fire.survive(arguments["disturbed"], counter.environment, folder / "disturbed.log")
        seconds, repeated = time.monotonic() - started, counter.total() - 2 * steps
        unlike = differences(*places.values(), (databases["undisturbed"], databases["disturbed"]))
    print(table(fire.strikes))
    print(f"{len(fire.strikes)} strikes in {seconds:.0f} s; the command failed {len(fire.failures)} times")
    print(f"optimizer steps done again: {repeated:,} of {steps:,}, {repeated / steps:.1%}")
    for line in [*fire.failures, *unlike]:
        print(f"- {line}")
    return 1 if fire.failures or unlike else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strikes", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2000, help="optimizer steps of every model")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--local", action="store_true", help="store in a folder, which has no faults")
    parser.add_argument("--folder", type=Path, help="an empty folder that is kept; temporary by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mx-", dir="/tmp", ignore_cleanup_errors=True) as temporary:
        os.environ.update(QUIET, HOME=temporary)
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        sys.exit(chaos(options, folder, Path(temporary)))


if __name__ == "__main__":
    main()
