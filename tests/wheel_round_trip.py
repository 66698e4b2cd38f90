"""Build a wheel, install it where no checkout is, and round-trip with what it ships.

The clean environment is a new venv that sees this interpreter's dependencies through a .pth file
but not the editable package: the wheel must bring its own modules and checkpoints.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
import sys
from pathlib import Path
import numpy as np
import osoa_pl
from osoa_pl.models.checkpoint import available, read
assert Path(osoa_pl.__file__).is_relative_to(sys.prefix), osoa_pl.__file__
print("checkpoints:", *(f"{n} {read(n).sha256[:12]}" for n in available()))
y, x, c = np.mgrid[0:40, 0:50, 0:3]
images = np.stack([(2 * x + 3 * y + 40 * c + 9 * i) % 256 for i in range(4)]).astype(np.uint8)
result = osoa_pl.compress(images, "a.osoa")
back = np.stack(osoa_pl.decompress("a.osoa"))
assert np.array_equal(back, images)
print(f"round trip of {images.nbytes} bytes in {result.archive_bytes}: equal")
"""


def run(*command: str | Path, **options: str | Path) -> None:
    """Run a command, its output with ours."""
    subprocess.run([str(part) for part in command], check=True, **options)  # type: ignore[call-overload]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # in a folder of its own: what lies in the checkout's build/ must not slip in
        run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT)
        (wheel,) = folder.glob("*.whl")
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / "bin" / "python"
        run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel)
        site = subprocess.run(
            [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
        # last on the path, and without its .pth files: no editable install comes along
        Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        work = folder / "work"
        work.mkdir()
        run(python, "-c", PROGRAM, cwd=work)
        run(folder / "venv" / "bin" / "osoa", "--version", cwd=work)


if __name__ == "__main__":
    main()
