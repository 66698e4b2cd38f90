"""`osoa compress` killed at random moments (kill -9), resumed, and the bytes compared.

    python benchmarks/interruptions.py [FOLDER] [--kills 50] [--jobs 1 2] [--seed 0]

For each number of jobs: one run that nobody disturbs, then runs that are killed and continued by
`--resume`. The moment: so many segments as are drawn from none to all have been kept, and up to
half a second has passed. After each kill: no file under the final name unless the run had ended,
workers gone, and after the resumption the same bytes and nothing else in the folder. Prints a
table; exit code 1 where any of that fails.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from processes import alive, started_by  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
LONGEST_END = 20.0
"""Seconds that a worker may live on."""


@dataclass
class Tally:
    """What the kills of one number of jobs came to."""

    jobs: int
    seconds: float
    segments: int
    early: int = 0
    """Before anything was kept."""
    coding: int = 0
    ended: int = 0
    """The archive was there and whole."""
    broken: int = 0
    """A wrong file under the final name."""
    same: int = 0
    other: list[str] = field(default_factory=list)
    resumed: list[float] = field(default_factory=list)
    """Seconds of the resumptions, where something was kept."""
    kept: list[float] = field(default_factory=list)
    """Share of the final code that had been kept."""
    ends: list[float] = field(default_factory=list)
    """Seconds until all workers were gone."""

    @property
    def kills(self) -> int:
        return self.early + self.coding + self.ended + self.broken

    @property
    def failed(self) -> bool:
        return bool(self.broken or self.other or self.same != self.kills)


def wait_for_end(processes: list[int]) -> float:
    """Seconds until all are gone."""
    began = time.monotonic()
    while any(map(alive, processes)) and time.monotonic() - began < LONGEST_END:
        time.sleep(0.01)
    return time.monotonic() - began


def code_bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.glob("m~*.seg")) if folder.is_dir() else 0


def measure(folder: Path, jobs: int, kills: int, options: list[str], seed: int) -> Tally:
    rng = random.Random(f"{seed} {jobs}")
    with tempfile.TemporaryDirectory(prefix="osoa-kills-") as name:
        place = Path(name)
        words = [
            sys.executable, "-m", "osoa_pl", "compress", str(folder), "--jobs", str(jobs), "-q",
            *options,
        ]  # fmt: skip
        began = time.monotonic()
        subprocess.run([*words, "-o", str(place / "whole.osoa")], check=True, cwd=ROOT)
        seconds = time.monotonic() - began
        whole = (place / "whole.osoa").read_bytes()
        with zipfile.ZipFile(place / "whole.osoa") as pack:
            names = [info.filename for info in pack.infolist()]
        tally = Tally(jobs, seconds, sum(name.endswith(".seg") for name in names))
        for number in range(kills):
            trial = place / str(number)
            trial.mkdir()
            _kill_once(tally, [*words, "-o", str(trial / "a.osoa")], trial, whole, rng)
            shutil.rmtree(trial)
            print(
                f"jobs {jobs}, kill {number + 1} of {kills}: {tally.same} the same",
                file=sys.stderr, flush=True,
            )  # fmt: skip
    return tally


def _kill_once(
    tally: Tally, words: list[str], trial: Path, whole: bytes, rng: random.Random
) -> None:
    segments, pause = rng.randint(0, tally.segments), rng.uniform(0, 0.5)
    final, partial = trial / "a.osoa", trial / "a.osoa.partial"
    run = subprocess.Popen(words, cwd=ROOT)
    while len(list(partial.glob("m~*.seg"))) < segments and run.poll() is None:
        time.sleep(0.01)
    time.sleep(pause)
    workers = started_by(run.pid)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    tally.ends.append(wait_for_end(workers))
    kept = code_bytes(partial)
    if final.exists():
        sound = final.read_bytes() == whole
        tally.ended, tally.broken = tally.ended + sound, tally.broken + (not sound)
        tally.same += sound
        return
    tally.early, tally.coding = tally.early + (not kept), tally.coding + bool(kept)
    began = time.monotonic()
    again = subprocess.run([*words, "--resume"], cwd=ROOT, capture_output=True, text=True)
    if kept:
        tally.resumed.append(time.monotonic() - began)
        tally.kept.append(kept / len(whole))
    found = sorted(path.name for path in trial.iterdir())
    if again.returncode or found != ["a.osoa"] or final.read_bytes() != whole:
        tally.other.append(f"after {segments} segments: exit code {again.returncode}, {found}")
        print(again.stderr, file=sys.stderr)
    else:
        tally.same += 1


def table(tallies: list[Tally]) -> str:
    """Markdown, a line per number of jobs."""
    lines = [
        "| jobs | run, s | kills | before anything was kept | while coding or packing "
        "| after the end | broken file | same bytes after `--resume` | kept at the kill "
        "| resumption, s | workers gone after, s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for tally in tallies:
        kept = f"{100 * _mean(tally.kept):.0f} % on average" if tally.kept else "-"
        lines.append(
            f"| {tally.jobs} | {tally.seconds:.1f} | {tally.kills} | {tally.early} "
            f"| {tally.coding} | {tally.ended} | {tally.broken} | {tally.same} of {tally.kills} "
            f"| {kept} | {_mean(tally.resumed):.1f} on average | {max(tally.ends):.2f} at most |"
        )
    return "\n".join(lines)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "demo" / "images")
    parser.add_argument("--kills", type=int, default=50, help="in all (default: 50)")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2], help="(default: 1 2)")
    parser.add_argument("--shard", type=int, default=6, help="images a shard (default: 6)")
    parser.add_argument("--segment", type=int, default=4, help="batches a segment (default: 4)")
    parser.add_argument("--adaptation", default="online", help="(default: online)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    arguments = parser.parse_args()
    options = ["--shard", str(arguments.shard), "--segment", str(arguments.segment)]
    options += ["--adaptation", arguments.adaptation]
    tallies = []
    for index, jobs in enumerate(arguments.jobs):
        share = (arguments.kills + index) // len(arguments.jobs)
        tallies.append(measure(arguments.folder.resolve(), jobs, share, options, arguments.seed))
        for problem in tallies[-1].other:
            print(f"jobs {jobs}: {problem}", file=sys.stderr)
    print(table(tallies))
    return int(any(tally.failed for tally in tallies))


if __name__ == "__main__":
    raise SystemExit(main())
