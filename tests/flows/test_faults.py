"""Faults of the machine under whole runs: kills, full and read-only disks, clocks, two at once.

Each ends in the bytes of an undisturbed run, or in a sentence after which the same command does.
"""

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import verbs
import warm
import yaml
from curation import published_bytes, settings, walk_through
from repository import ROOT

from gristmill.flows import config as configs
from gristmill.pipeline.export import retention, verify
from gristmill.pipeline.records.store import Store, walk

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("GRISTMILL_KILLS", "90"))  # fewer for a try; 1 in 9 is through the flow
HELPERS = f"import sys; sys.path.insert(0, {str(ROOT / 'tests' / 'helpers')!r})\n"
WALK = f"""{HELPERS}
from pathlib import Path
import verbs
from curation import walk_through
from gristmill.flows import config
verbs.tell(Path(sys.argv[2]))
print(walk_through(config.read(Path(sys.argv[1]))))
"""
FLOW = f"""{HELPERS}
from pathlib import Path
import verbs
from gristmill.flows import config
from gristmill.flows.curate import curate
verbs.tell(Path(sys.argv[2]))
print(curate(config.read(Path(sys.argv[1]))))
"""


def laid(root: Path, tiny: Path, **more) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    path = root / "run.yaml"
    path.write_text(yaml.safe_dump(settings(root, tiny, **more)))
    return path


def run_of(root: Path, tiny: Path, **more) -> configs.CurateConfig:
    return configs.read(laid(root, tiny, **more))


@pytest.fixture(scope="module")
def calm(tmp_path_factory, tiny) -> tuple[dict[str, str], dict[str, float]]:
    """The bytes of an undisturbed run, and the seconds that each of its verbs takes."""
    warm.Child("pass").communicate()
    root = tmp_path_factory.mktemp("calm")
    child = warm.Child(WALK, laid(root, tiny), root / "told")
    out, err = child.communicate()
    ended = time.monotonic()
    assert child.returncode == 0, err
    spans = verbs.spans(root / "told", ended)
    assert set(spans) == set(verbs.VERBS)
    return published_bytes(Path(out.strip())), spans


def killed(child: warm.Child, told: Path, verb: str, after: float) -> str | None:
    """Kill a child some seconds after a verb of it began; the verb that it died in.

    None: it ended before.
    """
    while verb not in dict(verbs.begun(told)):
        if child.poll() is not None:
            assert child.returncode == 0, child.communicate()
            return None
        time.sleep(0.002)
    try:
        child.communicate(timeout=after)
    except warm.TimeoutExpired:
        child.kill()
        child.communicate()
    if child.returncode != -signal.SIGKILL:
        return None
    return list(verbs.begun(told))[-1][0]


def made(store: Path) -> list[tuple]:
    lines = Store(root=store).computed()
    return [(line["step"], line["key"], line["part"]) for line in lines if "part" in line]


@pytest.mark.fault("killed: the verbs of a curation, at random moments")
def test_killed_at_random_moments_a_rerun_ends_with_the_same_bytes(
    calm, tiny, tmp_path, record_property
):
    """Three kills one after the other, each in a later verb, and then a run that is left alone."""
    truth, spans = calm
    draw, hits, number = random.Random(0), Counter(), 0
    while hits.total() < KILLS:
        root, number = tmp_path / f"run-{number}", number + 1
        assert number < KILLS, "most of the kills come too late"
        here = Counter()
        for at in sorted(draw.sample(range(len(spans)), 3)):
            verb, told = verbs.VERBS[at], root / f"told-{at}"
            child = warm.Child(WALK, laid(root, tiny), told)
            died_in = killed(child, told, verb, draw.uniform(0, spans[verb]))
            here.update([died_in] if died_in else [])
        folder = walk_through(run_of(root, tiny))
        assert published_bytes(folder) == truth
        assert verify.verify(folder) == []
        parts = made(root / "store")
        assert len(parts) - len(set(parts)) <= here.total(), "only a part in flight is made again"
        hits += here
        shutil.rmtree(root)
    assert all(hits[verb] for verb in spans if KILLS * spans[verb] > 9), hits
    record_property("fault", ("right", hits.total()))


@pytest.mark.fault("killed: a curation under Prefect, at random moments")
def test_killed_under_prefect_the_next_run_ends_with_the_same_bytes(
    calm, prefect_backend, tiny, tmp_path, record_property
):
    from gristmill.flows.curate import curate

    truth, spans = calm
    draw, hits, number = random.Random(1), Counter(), 0
    while hits.total() < KILLS / 9:
        root, verb = tmp_path / f"run-{number}", verbs.VERBS[number % len(verbs.VERBS)]
        number += 1
        assert number < KILLS, "most of the kills come too late"
        child = warm.Child(FLOW, laid(root, tiny), root / "told")
        died_in = killed(child, root / "told", verb, draw.uniform(0, 2 * spans[verb]))
        hits.update([died_in] if died_in else [])
        assert published_bytes(Path(curate(run_of(root, tiny)))) == truth
    record_property("fault", ("right", hits.total()))


@pytest.fixture(scope="module")
def prefect_backend() -> Iterator[None]:
    """A server for the runs of this file and for the children, which find it in the environment."""
    from prefect.settings import PREFECT_API_URL, get_current_settings
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=300), pytest.MonkeyPatch.context() as patch:
        address = PREFECT_API_URL.value_from(get_current_settings())
        assert address, "the harness has a server"
        patch.setenv("PREFECT_API_URL", address)
        yield


APART = f"""{HELPERS}
import ctypes, os, subprocess
from pathlib import Path
from curation import published_bytes, settings, walk_through
from gristmill.flows import config, publishing, steps
from gristmill.pipeline.export import verify
from gristmill.pipeline.records import disk

def mount(*words):
    subprocess.run(["mount", *map(str, words)], check=True)

root, tiny = Path(sys.argv[1]), Path(sys.argv[2])
ids = os.getuid(), os.getgid()
if ctypes.CDLL(None).unshare(0x10020000):  # mounts and users of its own
    print("unshare")
    sys.exit()
Path("/proc/self/setgroups").write_text("deny")
Path("/proc/self/uid_map").write_text(f"0 {{ids[0]}} 1")
Path("/proc/self/gid_map").write_text(f"0 {{ids[1]}} 1")
mount("--make-rprivate", "/")
mount("-t", "tmpfs", "-o", "size=64m", "none", root)
run = config.CurateConfig.model_validate(settings(root, tiny))
"""
FULL = f"""{APART}
size = sum(p.stat().st_size for p in root.iterdir()) // 1024 + 64
while True:
    mount("-o", f"remount,size={{size}}k", root)
    try:
        folder = walk_through(run)
    except Exception as error:
        assert disk.full_disk(error), repr(error)
        print("full", disk.sentence(error))
        size = size * 5 // 4
        continue
    break
print("done", len(verify.verify(folder)), sorted(published_bytes(folder).items()))
"""
LOCKED = f"""{APART}
def refused(call):
    try:
        call()
    except OSError as error:
        print("refused", disk.trouble(error))
    else:
        print("written")

for owner, verb in [
    *((steps.Curation, verb) for verb in ("ingest", "clean", "observe", "score", "select")),
    (publishing, "publish"),
]:  # the disk turns read-only as each begins
    plain = getattr(owner, verb)

    def turned(*given, plain=plain):
        mount("-o", "remount,ro", root)
        return plain(*given)

    setattr(owner, verb, turned)
    refused(lambda: walk_through(run))
    setattr(owner, verb, plain)
    mount("-o", "remount,rw", root)
folder = walk_through(run)
mount("-o", "remount,ro", root)
before = len(steps.open_store(run.store).computed())
steps.walk(steps.Curation(config=run))  # all of it is found
assert len(steps.open_store(run.store).computed()) == before
refused(lambda: walk_through(run))
print("done", len(verify.verify(folder)), sorted(published_bytes(folder).items()))
"""


def apart(code: str, root: Path, tiny: Path) -> list[str]:
    """What is told from a small disk of its own, which only the child sees."""
    root.mkdir()
    child = warm.Child(code, root, tiny)
    out, err = child.communicate()
    if out.strip() == "unshare":
        pytest.skip("this system gives a user no mounts of their own")
    assert child.returncode == 0, err
    return out.splitlines()


@pytest.mark.fault("full disk: whole runs on a disk that grows by a quarter each time")
def test_on_a_disk_that_is_full_at_first_a_run_ends_with_the_same_bytes(
    calm, tiny, tmp_path, record_property
):
    *full, last = apart(FULL, tmp_path / "disk", tiny)
    assert last == f"done 0 {sorted(calm[0].items())}"
    assert len(full) > 5
    assert all("make room and run the same command again" in line for line in full)
    record_property("fault", ("refused", len(full)))
    record_property("fault", ("right", 1))


@pytest.mark.fault("read-only disk: runs that have to write, and reads that do not")
def test_a_disk_that_is_read_only_is_read_and_what_must_write_says_so(
    calm, tiny, tmp_path, record_property
):
    *refused, last = apart(LOCKED, tmp_path / "disk", tiny)
    assert last == f"done 0 {sorted(calm[0].items())}"
    assert len(refused) == 7
    for line in refused:
        assert line.startswith("refused the disk is read-only")
    record_property("fault", ("refused", 7))
    record_property("fault", ("right", 1))


JUMPS = f"""{HELPERS}
import itertools, time
from datetime import UTC, datetime
from pathlib import Path
from gristmill.flows import config
from gristmill.pipeline.records import environment
from curation import walk_through
real, jumps = time.time, itertools.cycle([0.0, 3.2e8, -3.2e8, 86_400.0, -1.0])
time.time = lambda: real() + next(jumps)
time.time_ns = lambda: int(time.time() * 1e9)

class Jumping(datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.fromtimestamp(time.time(), tz)

environment.datetime = Jumping
print(walk_through(config.read(Path(sys.argv[1]))))
"""


@pytest.mark.fault("clock: jumps of a day and of ten years, forwards and back, within a run")
def test_a_clock_that_jumps_changes_no_byte(calm, tiny, tmp_path):
    child = warm.Child(JUMPS, laid(tmp_path, tiny))
    out, err = child.communicate()
    assert child.returncode == 0, err
    assert published_bytes(Path(out.strip())) == calm[0]
    assert verify.verify(Path(out.strip())) == []


@pytest.mark.fault("clock: a store whose files are ten years old, or of ten years hence")
@pytest.mark.parametrize("years", [-10, 10])
def test_a_store_that_was_written_under_another_clock_is_found_and_kept(
    calm, tiny, tmp_path, years
):
    run = run_of(tmp_path, tiny)
    folder = walk_through(run)
    before = made(tmp_path / "store")
    moved = time.time() + years * 365.25 * 86_400
    for path in [*walk(tmp_path / "store"), *walk(tmp_path / "curated")]:
        os.utime(path, (moved, moved))
    found = retention.holdings(Store(root=tmp_path / "store"), [tmp_path / "curated"])
    gone = retention.collect(retention.idle(found, 30))
    assert bool(gone) == (years < 0), "what seems to be used in the future stays"
    assert published_bytes(walk_through(run)) == calm[0]
    again = made(tmp_path / "store")
    assert (again == before) == (not gone)
    assert verify.verify(folder) == []


@pytest.mark.fault("two runs at once on one store, alike and in part alike")
@pytest.mark.parametrize("budgets", [("20%", "20%"), ("20%", "40%")])
def test_two_runs_at_once_on_one_store_share_it_and_disturb_neither(
    calm, tiny, tmp_path, budgets, record_property
):
    children = []
    for number, budget in enumerate(budgets):
        root = tmp_path / (f"{number}" if len(set(budgets)) > 1 else "0")
        shared = {"store": str(tmp_path / "store"), "select": {"budget": budget}}
        children.append(warm.Child(WALK, laid(root, tiny, **shared), root / "told"))
    told = [child.communicate() for child in children]
    assert [child.returncode for child in children] == [0, 0], told
    folders = [Path(out.strip()) for out, _ in told]
    assert all(verify.verify(folder) == [] for folder in folders)
    assert published_bytes(folders[0]) == calm[0]
    parts = made(tmp_path / "store")
    assert len(parts) == len(set(parts)), "each part was made once"
    record_property("fault", ("right", 2))
