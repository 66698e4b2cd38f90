"""`osoa bench`: this codec beside others on one's own pictures."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from osoa_pl.cli.arguments import add_json, add_machine, near, whole
from osoa_pl.cli.console import Console, counted, grouped, size

if TYPE_CHECKING:
    from osoa_pl.report.bench import BenchResult, Row

SUMMARY = "compare with PNG, WebP, JPEG XL and xz on your pictures"
USAGE = "osoa bench INPUT... [OPTIONS]"
DESCRIPTION = """\
Compress pictures with this codec and with others, decode everything back, compare
every pixel, and print one table sorted by rate.

examples:
  osoa bench photos/
  osoa bench tiles.npz --adaptation online --rivals jxl-e9,webp
  osoa bench tiles.npz --rivals none --json

Rivals code each picture alone, and all as one: a mosaic (pictures of one size) or,
for xz, the raw samples in a row. INPUT is as for compress; what holds no pixels takes
no part. Rates in bits/dim with all headers, speeds in MB of raw samples a second.
"""
_ADAPTATIONS = ("none", "online", "auto")
_USUAL = ("png", "webp", "jxl-e7", "jxl-e9", "xz")
_RIVALS = (*_USUAL, "jxl-e10", "bz2", "gzip")
_SKIPPED = 3


def _several(known: tuple[str, ...], *, empty: bool) -> Callable[[str], tuple[str, ...]]:
    """Argument type: names from `known` with commas between; `none` for none of them."""

    def names(text: str) -> tuple[str, ...]:
        if empty and text == "none":
            return ()
        found = tuple(dict.fromkeys(text.split(",")))
        for name in found:
            if name not in known:
                raise argparse.ArgumentTypeError(
                    f"unknown value {name!r} (expected {', '.join(known)}){near(name, known)}"
                )
        return found

    return names


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help=argparse.SUPPRESS)
    group = parser.add_argument_group("what to measure")
    group.add_argument(
        "--adaptation", type=_several(_ADAPTATIONS, empty=False), default=_ADAPTATIONS,
        metavar="LIST", help="of none,online,auto (default: all three)",
    )  # fmt: skip
    group.add_argument(
        "--rivals", type=_several(_RIVALS, empty=True), default=_USUAL, metavar="LIST",
        help=f"of {','.join(_RIVALS)} (default: the first five), or none",
    )  # fmt: skip
    group.add_argument(
        "--effort", type=whole(1, 9), metavar="N", help="of auto, as for compress (default: 5)"
    )
    group.add_argument(
        "--checkpoint", default="default", metavar="NAME|PATH",
        help="where to start from (default: base, but see --effort)",
    )  # fmt: skip
    add_json(parser.add_argument_group("output"))
    add_machine(parser.add_argument_group("machine"))


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Measure; 0, or 3 where inputs were skipped."""
    from osoa_pl.api.members import check_device
    from osoa_pl.models import checkpoint as checkpoints
    from osoa_pl.report.bench import bench

    checkpoints.metadata(checkpoints.read(arguments.checkpoint))  # before minutes of work
    check_device(arguments.device)
    with console.progress("measuring", unit="steps") as watch:

        def step(what: str, done: int, total: int) -> None:
            watch(done, total)

        result = bench(
            arguments.inputs,
            adaptations=arguments.adaptation,
            rival_names=arguments.rivals,
            checkpoint=arguments.checkpoint,
            effort=arguments.effort,
            device=arguments.device,
            threads=arguments.threads,
            step=step,
        )
    code = _SKIPPED if result.skipped else 0
    if console.json:
        fields = asdict(result)
        fields["stored"] = [{"name": n, "reason": r} for n, r in result.stored]
        fields["skipped"] = [{"path": p, "reason": r} for p, r in result.skipped]
        console.emit("summary", **fields, exit_code=code)
    else:
        _tell(result, console)
    for line in grouped(result.stored):
        console.note(f"took no part: {line}")
    for line in grouped(result.skipped):
        console.warning(f"skipped: {line}")
    return code


def _tell(result: BenchResult, console: Console) -> None:
    from osoa_pl.report.rivals import TITLES

    header = (
        "codec", "coded as", "bytes", "bits/dim", "ratio", "compress MB/s", "decompress MB/s",
        "memory",
    )  # fmt: skip

    def cells(row: Row) -> tuple[str, ...]:
        return (
            TITLES.get(row.codec, row.codec),
            row.arrangement,
            str(row.encoded_bytes),
            f"{row.bits_per_dim:.4f}",
            f"{result.raw_bytes / row.encoded_bytes:.2f}",
            f"{row.encode_mb_per_second:.2f}",
            f"{row.decode_mb_per_second:.2f}",
            size(row.peak_bytes) if row.peak_bytes else "-",
        )

    own = [i for i, row in enumerate(result.rows) if row.arrangement == "archive"]
    console.table(header, [cells(row) for row in result.rows], left=2, bold=own)
    console.note(f"{counted(result.images, 'image')}, {size(result.raw_bytes)} of samples")
