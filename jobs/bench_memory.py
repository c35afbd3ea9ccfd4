"""Peak memory of the driver and of the largest task while a corpus of 10 MB and one of 200 MB are prepared.

    python jobs/bench_memory.py

Prints both peaks and the ratios 200 MB / 10 MB: 1.0 means that memory does not grow with the corpus.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

MEGABYTES = (10, 200)
RUN = """
name: memory
storage: {storage}
tokenizer: {{train: {{vocab_size: 1024, sample_bytes: 500_000}}}}
window: 128
sources: {{text: {{jsonl: "{text}"}}}}
targets: {{sample: {{jsonl: "{sample}"}}}}
proxy: {{model: {{architecture: gpt_neox}}, tokens: 1_000_000}}
retrain: {{model: {{architecture: gpt_neox}}, tokens: 1_000_000}}
"""


def write_corpus(path: Path, size: int, seed: int) -> None:
    """About ``size`` bytes of JSON lines, no document twice."""
    draw = np.random.default_rng(seed)
    words = ["".join(map(chr, draw.integers(97, 123, draw.integers(2, 9)))) for _ in range(5_000)]
    with path.open("w") as sink:
        while sink.tell() < size:
            sink.write(json.dumps({"text": " ".join(draw.choice(words, 500))}) + "\n")


def peaks(command: list[str]) -> tuple[float, float]:
    """MB: the driver's peak, and the largest peak of any process that ran a task for it."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        driver, task = 0.0, 0.0
        while process.poll() is None:
            driver = max(driver, peak_of(Path(f"/proc/{process.pid}")))
            for entry in Path("/proc").glob("[0-9]*"):
                if title(entry).startswith("ray::Map"):
                    task = max(task, peak_of(entry))
            time.sleep(0.1)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return driver, task


def title(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def peak_of(process: Path) -> float:
    try:
        lines = (process / "status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def main() -> None:
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_corpus(folder / "sample.jsonl", 200_000, seed=1)
        for size in MEGABYTES:
            text = folder / f"{size}.jsonl"
            write_corpus(text, size * 1_000_000, seed=size)
            run_file = folder / f"{size}.yaml"
            run_file.write_text(RUN.format(storage=folder / f"runs-{size}", text=text, sample=folder / "sample.jsonl"))
            found.append(peaks([sys.executable, "-m", "mixray.cli", "run", str(run_file), "--until", "data"]))
            print(f"{size:4d} MB of text: driver {found[-1][0]:.0f} MB, largest task {found[-1][1]:.0f} MB", flush=True)
    (small_driver, small_task), (large_driver, large_task) = found
    print(f"200 MB / 10 MB: driver {large_driver / small_driver:.2f}, largest task {large_task / small_task:.2f}")


if __name__ == "__main__":
    main()
