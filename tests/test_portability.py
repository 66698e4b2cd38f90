"""The matrix: the same bytes under every kernel set, thread count and engine, and each decodes.

Every environment is a process of its own (`portability/trajectory.py`), because libraries read
these variables when they are loaded; threads, engines and model forms vary within it. The golden
digests never change while the arithmetic version stays: docs/portability.md says what to do when
one does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import osoa_pl
from osoa_pl.arith.engines import check_rounding
from osoa_pl.errors import PortabilityError

SCRIPT = Path(__file__).parent / "portability" / "trajectory.py"
GOLDEN = {
    "short": {
        "segments": "2ab705bcb0fe94b159c9212ac6d08d8fd0f64d012f8617c0f0e01151cbffcd52",
        "pixels": "1a766da0a76fa0ed21278cd8e56112cf5bae704c0a6b5e0c1b1a4c9ad6ae0751",
        "state": "6a2bae1b912745f4a2abd4f941b215c0",
    },
    "tiny": {
        "segments": "8986b0be9b50679e276bf6d16d1027ee54d51c07925c0353b50c2c0e81893daf",
        "pixels": "227ccb28d4c4b24b8447652c4c2e90feb8e854ef63349b99bf7ca62e08e28628",
        "state": "9e3847ae5c00cb7a4ac498772b66ae70",
    },
    "latent": {
        "segments": "415b8a8ad0e139873c1b88fa3a26fd67b73b342083d4e0aafdf7ac47a5a658b8",
        "pixels": "d5aa2ec0836019eca33ef8b7f22d0587796ae4346cd0a7244b4b00d63032b9d2",
        "state": "7a57f515317271d6d9c7f54a19f0a671",
    },
    "memory": {
        "segments": "f86f77ceaf3818195cc6e4b1dff11e596217daacaf84ea31f5f57c9ffe04c47e",
        "pixels": "58726206fbde5c21c2615fad3e31d2bdcb4a5f2da521ec970b45b81fbbe77550",
        "state": "9beddff1154d9b312987b8524fb4ab1f",
    },
}
OPTIMIZER = "133b43078b3ab092cf8e2358aaa2a0b5a4c7eb7aede39ba8c5714f7d840ea2b5"
LAYERS = "893340e4923e568532bdf1f6007b598b"  # GOLDEN_FIRST of arith/test_trajectory.py

# what each process runs; {} is the folder that the first one wrote
FULL = (
    "--decode {} --archive --layers",
    "--threads 2 --model eager --onednn off",
    "--threads 2 --engine float64 --decode {}",
    "--collection latent --threads 2 --decode {}",
    "--collection latent --model eager --engine float64",
    "--collection memory --threads 2 --decode {}",
    "--collection memory --engine float64 --decode {}",
)
ENVIRONMENTS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "as found": (
        {},
        (
            "--threads 2 --decode {} --archive",
            "--engine float32 --onednn off --decode {}",
            "--engine int8 --decode {} --layers",
            "--model eager",
            "--model eager --threads 2 --engine float64",
            "--model eager --collection tiny --decode {}",
            "--engine float64 --collection tiny --decode {}",
            "--collection latent --engine int8 --decode {}",
            "--collection latent --onednn off --threads 2",
            "--collection latent --model eager --decode {}",
            "--collection memory --engine int8 --threads 2 --decode {}",
            "--collection memory --engine float32 --decode {}",
            "--collection memory --model eager",
        ),
    ),
    "eager, decoding": ({}, ("--collection memory --model eager --decode {}",)),
    "plain kernels": (
        {
            "ATEN_CPU_CAPABILITY": "default",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "MKL_CBWR": "COMPATIBLE",
        },
        FULL,
    ),
    "avx2 kernels": ({"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}, FULL),
    "avx512 kernels": (
        {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
        FULL,
    ),
    "two threads, bfloat16 asked for": (
        {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "ONEDNN_DEFAULT_FPMATH_MODE": "BF16"},
        FULL,
    ),
    "compiled for any x86-64": (
        {"NUMBA_CPU_NAME": "generic"},
        (FULL[0], "--collection memory --decode {}"),
    ),
    "not compiled": (
        {"NUMBA_DISABLE_JIT": "1"},
        (
            "--collection tiny --decode {}",
            "--collection tiny --threads 2 --engine float64",
            "--collection latent --decode {}",
            "--collection memory --decode {}",
        ),
    ),
}
_LEVELS = {"default": 0, "avx2": 1, "avx512": 2}
_CLEARED = {name for environment, _ in ENVIRONMENTS.values() for name in environment}


def trajectories(environment: dict[str, str], lines: list[str]) -> list[dict[str, Any]]:
    """What the script prints for each line of options in this environment."""
    variables = {k: v for k, v in os.environ.items() if k not in _CLEARED} | environment
    variables["OMP_WAIT_POLICY"] = "PASSIVE"  # two threads on a busy machine: no spinning
    variables["PYTHONPATH"] = str(Path(osoa_pl.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *lines],
        env=variables, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()][1:]


def check(found: dict[str, Any]) -> None:
    """Every digest of one run is the stored one."""
    options = found["options"]
    golden = next((GOLDEN[name] for name in GOLDEN if name in options), GOLDEN["short"])
    assert found["segments"] == golden["segments"], options
    assert found["states"][-1] == golden["state"], options
    assert found["optimizer"] == OPTIMIZER, options
    assert found.get("decoded", golden["pixels"]) == golden["pixels"], options
    assert found.get("restored", golden["pixels"]) == golden["pixels"], options
    assert found.get("layers", [LAYERS])[0] == LAYERS, options


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Segments and an archive made in the environment as it is; their digests."""
    folder = tmp_path_factory.mktemp("portability")
    lines = [f"--write {folder} --archive"]
    lines += [f"--write {folder} --collection {name}" for name in ("tiny", "latent", "memory")]
    found = trajectories({}, lines)
    for run in found:
        check(run)
    return folder, found[0]


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n == "eager, decoding")) for n in ENVIRONMENTS],
)
def test_the_bytes_do_not_depend_on(name, written, tmp_path):
    environment, lines = ENVIRONMENTS[name]
    here = torch.backends.cpu.get_cpu_capability().lower()
    if _LEVELS.get(environment.get("ATEN_CPU_CAPABILITY", "default"), 0) > _LEVELS.get(here, 0):
        pytest.skip(f"this processor has no such kernels ({here})")
    folder, first = written
    # the same archive bytes too: one zlib, one interpreter
    again = [f"--write {tmp_path} --archive"] if len(lines) == len(FULL) else []
    results = trajectories(environment, [line.format(folder) for line in lines] + again)
    assert len(results) == len(lines) + len(again)
    for found in results:
        check(found)
        assert found.get("archive", first["archive"]) == first["archive"], found["options"]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_bytes_do_not_depend_on_the_device(written):
    folder, _ = written
    on_cuda = "--device cuda --model eager"
    lines = [on_cuda, f"{on_cuda} --collection tiny --decode {folder}"]
    lines.append(f"{on_cuda} --collection latent --decode {folder}")
    for found in trajectories({}, lines):
        check(found)


def test_a_process_that_flushes_subnormal_numbers_is_refused(tmp_path):
    pixels = torch.arange(192, dtype=torch.uint8).view(8, 8, 3).numpy()
    check_rounding()  # torch's workers exist now: begun later, they would keep the mode for good
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormal numbers")
    try:
        with pytest.raises(PortabilityError, match="flushes subnormal") as caught:
            osoa_pl.compress([pixels], tmp_path / "a.osoa", adaptation="none")
    finally:
        torch.set_flush_denormal(False)
    assert caught.value.exit_code == 6
    assert not (tmp_path / "a.osoa").exists()
