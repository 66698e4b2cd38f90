"""Parts coded and decoded by several processes: the same bytes, the same errors, nothing left."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import picture
from PIL import Image

import osoa_pl
from osoa_pl.api import workers
from osoa_pl.api.compress import compress
from osoa_pl.api.workers import CodePart, DecodePart
from osoa_pl.data.collection import Collection
from osoa_pl.errors import DamagedArchiveError, InputError, OsoaError, UsageError
from osoa_pl.online.plan import BatchSettings

SMALL = BatchSettings(batch_pixels=512, first_pixels=128, segment_batches=2)
SHARD = 4
PROC = Path("/proc")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RGB, grey, RGBA, arrays, copies far apart, near-duplicates, small files and a larger one."""
    root = tmp_path_factory.mktemp("in") / "mixed"
    (root / "sub").mkdir(parents=True)
    first = picture(20, 30, 3, 1)
    for i in range(3):
        Image.fromarray(picture(20 + i, 30, 3, i + 1)).save(root / f"a{i}.png")
    near = first.copy()
    near[3, 4:9] ^= 1
    Image.fromarray(near).save(root / "a00-near.png")
    Image.fromarray(picture(16, 14, 1, 5)[..., 0]).save(root / "sub" / "grey.png")
    alpha = np.dstack([picture(11, 12, 3, 6), np.full((11, 12), 255, np.uint8)])
    alpha[:5, :5, 3] = 40
    Image.fromarray(alpha).save(root / "b-alpha.png")
    np.save(root / "c-stack.npy", np.stack([picture(9, 8, 1, i)[..., 0] for i in range(9)]))
    np.savez(root / "d-both.npz", a=picture(8, 8, 3, 1)[None], b=picture(6, 5, 1, 2)[None])
    (root / "e.txt").write_text("small enough to be packed\n" * 4)
    (root / "f.txt").write_text("packed, too\n" * 5)
    (root / "g.bin").write_bytes(np.random.default_rng(0).bytes(9000))
    (root / "z-copy.png").write_bytes((root / "a0.png").read_bytes())
    (root / "z-copy.bin").write_bytes((root / "g.bin").read_bytes())
    (root / "z-pixels.bmp").touch()
    Image.fromarray(picture(16, 14, 1, 5)[..., 0]).save(root / "z-pixels.bmp")
    return root


@pytest.fixture(scope="module")
def archive(
    folder: Path, checkpoint_path: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """One process made it, adapting."""
    path = tmp_path_factory.mktemp("out") / "one.osoa"
    make(folder, path, checkpoint_path)
    yield path


def make(images: Any, path: Path, checkpoint: str, **options: Any) -> bytes:
    chosen = {"adaptation": "online", "settings": SMALL, "shard": SHARD, "threads": 1, **options}
    compress(images, path, checkpoint=checkpoint, **chosen)
    return path.read_bytes()


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def children() -> set[int]:
    """Processes that this one has started and that live, zombies included."""
    if not PROC.exists():
        return set()
    found = set()
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == os.getpid():
                found.add(int(entry.name))
    return found


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    before = children()
    yield
    assert children() <= before


@pytest.mark.parametrize("adaptation", ["online", "auto"])
def test_same_bytes_for_any_number_of_jobs(folder, adaptation, tmp_path, checkpoint_path):
    """With one process, two (and their verification), and three."""
    one = make(folder, tmp_path / "1.osoa", checkpoint_path, adaptation=adaptation)
    two = make(
        folder, tmp_path / "2.osoa", checkpoint_path, adaptation=adaptation, jobs=2, verify=True
    )
    three = make(folder, tmp_path / "3.osoa", checkpoint_path, adaptation=adaptation, jobs=3)
    assert one == two == three
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.osoa", "2.osoa", "3.osoa"]


def test_the_collection_has_what_it_should(archive, checkpoint_path):
    """Otherwise the other tests say little."""
    with osoa_pl.open_archive(archive, checkpoint=checkpoint_path) as opened:
        assert opened.info.parts >= 5
        assert opened.info.copies == 3
        assert opened.manifest.packed
        letters = {item.coded for item in opened.items if item.count}
        assert any("d" in each for each in letters) and "" in letters
        stack = next(i for i in opened.items if i.name == "c-stack.npy")
        assert stack.count == 9 > 2 * SHARD
        kinds = {s.channels for s in opened.manifest.shards}
    assert kinds == {1, 3}


def test_arrays_travel_in_parts(tmp_path, checkpoint_path):
    images = np.stack([picture(10, 12, 3, i) for i in range(9)])
    one = make(images, tmp_path / "1.osoa", checkpoint_path)
    assert make(images, tmp_path / "2.osoa", checkpoint_path, jobs=2) == one


def test_decoding_likewise(folder, archive, tmp_path, checkpoint_path):
    results = []
    for jobs in (1, 2, 3):
        out = tmp_path / str(jobs)
        result = osoa_pl.decompress(archive, out, checkpoint=checkpoint_path, jobs=jobs, threads=1)
        results.append((result.files, tree(out)))
    assert results[0] == results[1] == results[2]
    assert len(results[0][1]) == len(tree(folder))
    some = tmp_path / "some"
    osoa_pl.decompress(archive, some, only="*z*", checkpoint=checkpoint_path, jobs=2)
    assert tree(some) == {n: d for n, d in results[0][1].items() if "z" in n}
    with osoa_pl.open_archive(archive, checkpoint=checkpoint_path) as opened:
        assert opened.verify(jobs=2) == len(opened)


def test_a_tar_has_one_order(archive, tmp_path, checkpoint_path):
    from osoa_pl.api.tars import extract_to_tar

    made = []
    for jobs in (1, 3):
        with osoa_pl.open_archive(archive, checkpoint=checkpoint_path, threads=1) as opened:
            extract_to_tar(opened, tmp_path / f"{jobs}.tar", jobs=jobs)
        made.append((tmp_path / f"{jobs}.tar").read_bytes())
    assert made[0] == made[1]


def test_jobs_and_streams(archive, tmp_path, checkpoint_path):
    """A worker cannot read what only this process has: then there is none."""
    with osoa_pl.open_archive(io.BytesIO(archive.read_bytes()), checkpoint=checkpoint_path) as one:
        assert one.verify(jobs=2) == len(one)
    with pytest.raises(UsageError, match="one process"):
        DecodePart("-", 0, None, {})
    for jobs in (0, -1, True, 1.5):
        with pytest.raises(UsageError, match="jobs"):
            make(archive, tmp_path / "a.osoa", checkpoint_path, jobs=jobs)


class Counted(io.BytesIO):
    """Remembers which bytes were read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.data = data
        self.seen: list[tuple[int, int]] = []

    def read(self, size: int | None = -1) -> bytes:
        begin = self.tell()
        found = super().read(size)
        self.seen.append((begin, begin + len(found)))
        return found

    def readinto(self, buffer: Any) -> int:
        begin = self.tell()
        count = super().readinto(buffer)
        self.seen.append((begin, begin + count))
        return count

    def members(self) -> set[str]:
        """Coded members of whose bytes any were read since the last call."""
        with zipfile.ZipFile(io.BytesIO(self.data)) as pack:
            places = {
                info.filename: (info.header_offset, info.header_offset + info.file_size)
                for info in pack.infolist()
                if info.filename.startswith(("shards/", "planes/", "packed/"))
            }
        seen, self.seen = self.seen, []
        return {
            name for name, (begin, end) in places.items()
            if any(first < end and last > begin for first, last in seen)
        }  # fmt: skip


def parts_of(members: set[str]) -> set[int]:
    found = set()
    for name in members:
        kind, number = name.split("/")[:2]
        if kind != "packed":
            found.add(int(number) // 2 if kind == "shards" else int(number))
    return found


def number_of(opened: Any, name: str) -> int:
    """Of the entry's first picture."""
    index = next(i for i, item in enumerate(opened.items) if item.name == name)
    return sum(item.count for item in opened.items[:index])


def test_only_the_parts_that_are_needed_are_read(archive, tmp_path, checkpoint_path):
    file = Counted(archive.read_bytes())
    with osoa_pl.open_archive(file, checkpoint=checkpoint_path) as opened:
        assert not file.members()  # opening reads no code
        last = opened.info.parts - 1
        firsts = np.cumsum([0] + [p.pictures for p in opened.manifest.parts])
        begin = number_of(opened, "c-stack.npy")
        opened[begin + 8]
        assert parts_of(file.members()) == {int(np.searchsorted(firsts, begin + 8, "right")) - 1}
        opened[0]
        assert parts_of(file.members()) == {0}
        opened[1]  # goes on: nothing is read again but what comes next
        assert parts_of(file.members()) <= {0}
        copy = number_of(opened, "z-copy.png")
        assert np.array_equal(opened[copy], opened[number_of(opened, "a0.png")])
        assert parts_of(file.members()) == {0}  # where its target is
        number = number_of(opened, "sub/grey.png")
        home = int(np.searchsorted(firsts, number, "right")) - 1
        opened.extract(tmp_path / "some", only="sub/grey.png")
        assert parts_of(file.members()) == {home}
        opened.extract(tmp_path / "files", only="?.txt")
        assert file.members() == {"packed/0000"}
        assert last >= 4


def test_without_adaptation_only_some_segments_are_read(tmp_path, checkpoint_path):
    images = np.stack([picture(16, 16, 3, i) for i in range(40)])
    path = tmp_path / "a.osoa"
    make(images, path, checkpoint_path, adaptation="none", shard=30, model_only=True)
    file = Counted(path.read_bytes())
    with osoa_pl.open_archive(file, checkpoint=checkpoint_path) as opened:
        assert np.array_equal(opened[29], images[29])
        read = file.members()
        of_part = [s for s in opened.manifest.shards if s.number == 0][0]
    assert parts_of(read) == {0}
    assert 1 <= len(read) <= 2 < len(of_part.segment_bytes)


@pytest.mark.skipif(not PROC.exists(), reason="finds workers in /proc")
@pytest.mark.parametrize("decode", [False, True])
def test_a_worker_that_is_killed(folder, archive, decode, tmp_path, checkpoint_path):
    before, killed = children(), []

    def kill() -> None:
        deadline = time.monotonic() + 30
        while not killed and time.monotonic() < deadline:
            for process in children() - before:
                time.sleep(0.2)
                os.kill(process, signal.SIGKILL)
                killed.append(process)
                break
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(OsoaError, match="a worker process was killed by SIGKILL") as caught:
        if decode:
            osoa_pl.decompress(archive, tmp_path / "out", checkpoint=checkpoint_path, jobs=2)
        else:
            make(folder, tmp_path / "a.osoa", checkpoint_path, jobs=2)
    killer.join()
    assert caught.value.exit_code == 1 and "\n" not in str(caught.value)
    assert not (tmp_path / "a.osoa").exists()
    assert all(path.suffix == ".partial" or decode for path in tmp_path.iterdir())


@pytest.mark.parametrize("jobs", [1, 2])
def test_errors_of_workers_are_those_of_one_process(
    folder, archive, jobs, tmp_path, checkpoint_path
):
    data = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as pack:
        last = max(n for n in pack.namelist() if n.startswith("shards/"))
        place = pack.getinfo(last).header_offset
    data[data.index(b"OSEG", place) + 90] ^= 1
    (tmp_path / "bad.osoa").write_bytes(data)
    number = int(last.split("/")[1])
    with pytest.raises(DamagedArchiveError, match=f"shard {number}, segment") as caught:
        osoa_pl.decompress(
            tmp_path / "bad.osoa", tmp_path / "out", checkpoint=checkpoint_path, jobs=jobs
        )
    assert caught.value.exit_code == 4 and "are intact" in str(caught.value) or number
    assert not [p for p in (tmp_path / "out").rglob(".osoa-*")]


@pytest.mark.parametrize("jobs", [1, 2])
def test_inputs_that_go_or_change_meanwhile(jobs, tmp_path, checkpoint_path, monkeypatch):
    root, out = tmp_path / "in", tmp_path / "a.osoa"
    root.mkdir()
    for i in range(8):
        Image.fromarray(picture(16, 20, 3, i)).save(root / f"{i}.png")
    victim = root / "5.png"
    sound = victim.read_bytes(), victim.stat().st_mtime_ns

    def other_size() -> None:
        Image.fromarray(picture(9, 9, 3)).save(victim)

    def other_pixels() -> None:  # as many, which no shape can tell
        Image.fromarray(picture(16, 20, 3, 77)).save(victim)

    def restore() -> None:
        victim.write_bytes(sound[0])
        os.utime(victim, ns=(sound[1], sound[1]))

    from osoa_pl.api.job import CompressionJob

    enter = CompressionJob.__enter__
    cases: list[tuple[Any, str]] = [
        (victim.unlink, "5.png: cannot be read"),
        (lambda: victim.write_bytes(b"no picture"), "5.png: "),
        (other_size, "5.png: "),
        (other_pixels, "5.png: changed while it was read"),
    ]
    for spoil, message in cases if jobs == 1 else cases[::3]:

        def late(job: CompressionJob, spoil: Any = spoil) -> CompressionJob:
            spoil()
            return enter(job)

        monkeypatch.setattr(CompressionJob, "__enter__", late)
        with pytest.raises(InputError, match=message) as caught:
            make(root, out, checkpoint_path, shard=2, jobs=jobs, overwrite=True)
        assert caught.value.exit_code == 1 and "\n" not in str(caught.value)
        assert not out.exists()
        restore()
    monkeypatch.undo()
    assert (tmp_path / "a.osoa.partial").is_dir()
    resumed = make(root, out, checkpoint_path, shard=2, jobs=jobs, resume=True)
    assert resumed == make(root, tmp_path / "b.osoa", checkpoint_path, shard=2)


def test_a_copy_that_changes_meanwhile(tmp_path, checkpoint_path, monkeypatch):
    """It would come back as what it was: an error, although nobody reads it again."""
    root = tmp_path / "in"
    root.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(picture(16, 20, 3)).save(root / name)

    def code(self: Any, *arguments: Any) -> Any:
        Image.fromarray(picture(16, 20, 3, 3)).save(root / "b.png")
        return original(self, *arguments)

    from osoa_pl.api.job import CompressionJob

    original = CompressionJob.code
    monkeypatch.setattr(CompressionJob, "code", code)
    with pytest.raises(InputError, match="b.png: changed"):
        make(root, tmp_path / "a.osoa", checkpoint_path)
    assert not (tmp_path / "a.osoa").exists()


@pytest.mark.skipif(not PROC.exists(), reason="finds workers in /proc")
@pytest.mark.parametrize("decode", [False, True])
def test_an_interrupt_ends_the_workers(folder, archive, decode, tmp_path, checkpoint_path):
    before = children()

    def watch(done: int, total: int) -> None:
        assert children() - before
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        if decode:
            osoa_pl.decompress(
                archive, tmp_path / "out", checkpoint=checkpoint_path, jobs=2, watch=watch
            )
        else:
            make(folder, tmp_path / "a.osoa", checkpoint_path, jobs=2, watch=watch)
    assert children() == before
    assert not (tmp_path / "a.osoa").exists()


def test_progress_reaches_its_end(folder, tmp_path, checkpoint_path):
    """Also where parts are taken over, and never goes back."""
    for number, options in enumerate(({"jobs": 2}, {"adaptation": "auto"}, {"verify": True})):
        told: list[tuple[int, int]] = []

        def watch(done: int, total: int, told: Any = told) -> None:
            told.append((done, total))

        make(folder, tmp_path / f"{number}.osoa", checkpoint_path, watch=watch, **options)
        assert told == sorted(told) and len({total for _, total in told}) == 1
        if "verify" not in options:  # planes that no model takes are not told of
            assert told[-1][0] == told[-1][1]


SCRIPT = """
import sys
import numpy as np
import osoa_pl
images = np.load(sys.argv[1])
options = dict(checkpoint=sys.argv[2], adaptation="none", shard=3, jobs=2, threads=1)
osoa_pl.compress(images, sys.argv[3], **options)
with osoa_pl.open_archive(sys.argv[3], checkpoint=sys.argv[2]) as archive:
    print(archive.verify(jobs=2))
"""


def test_a_script_on_standard_input(tmp_path, checkpoint_path):
    """No file to import again, and a current folder full of modules that are not meant."""
    np.save(tmp_path / "images.npy", np.stack([picture(8, 9, 1, i) for i in range(6)]))
    for name in ("json", "pickle", "torch", "queue", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    ran = subprocess.run(
        [sys.executable, "-P", "-", "images.npy", checkpoint_path, "a.osoa"], input=SCRIPT,
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (0, "6\n"), ran.stderr


def broken(*_: Any) -> Any:
    raise AssertionError("not to be read")


class Unreadable:
    """Cannot be restored from its pickle."""

    def __reduce__(self) -> Any:
        return broken, ()


def test_a_task_that_cannot_be_read():
    with pytest.raises(AssertionError, match="not to be read"):
        list(workers.run([Unreadable(), Unreadable()], 2))


def test_answers_keep_the_order_of_the_tasks():
    turns = workers._Turns()
    told = [
        (1, "picture", "b0"), (0, "picture", "a0"), (2, "picture", "c0"), (1, "done", "B"),
        (0, "picture", "a1"), (0, "done", "A"), (2, "picture", "c1"), (2, "done", "C"),
    ]  # fmt: skip
    found = [answer for each in told for answer in turns.take(*each)]
    assert [value for _, _, value in found] == ["a0", "a1", "A", "b0", "B", "c0", "c1", "C"]
    assert [number for number, _, _ in found] == [0, 0, 0, 1, 1, 2, 2, 2]
    turns.close()


def test_only_a_parts_own_pictures_travel(checkpoint_path):
    from osoa_pl.api.job import CompressionJob, JobOptions

    images = np.random.default_rng(0).integers(0, 256, (50, 40, 40), np.uint8)
    options = JobOptions(checkpoint=checkpoint_path, shard=5)
    job = CompressionJob(images, io.BytesIO(), options)
    import pickle

    bare = len(pickle.dumps(job.options))
    for number, pieces in enumerate(job.parts):
        data = pickle.dumps(CodePart(number, pieces, job.options, "folder"))
        assert len(data) < bare + 5 * 1600 + 4000
        back = pickle.loads(data)
        for ours, theirs in zip(back.pieces, pieces, strict=True):
            for one, other in zip(ours.pictures(), theirs.pictures(), strict=True):
                assert np.array_equal(one[0], other[0])


def test_parts_are_about_equal(tmp_path, monkeypatch):
    from osoa_pl.api import job

    monkeypatch.setattr(job, "SHARD_SAMPLES", 10_000)
    for count in (1, 9, 11, 13, 25):
        rng = np.random.default_rng(count)
        images = rng.integers(0, 256, (count, 20, 50), np.uint8)
        entries = Collection.from_arrays(images).entries
        parts, spans = job._cut(entries, None)
        sizes = [sum(piece.count for piece in part) for part in parts]
        assert sizes == spans and sum(sizes) == count
        assert len(sizes) == -(-count // 10) and max(sizes) - min(sizes) <= 2
