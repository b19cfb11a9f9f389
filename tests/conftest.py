"""What every test may rely on: one thread, no network, and a check that it left nothing behind.

Nothing is seeded here: a test that draws random numbers names its own seed.
"""

import os
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

# Before anything imports torch or huggingface_hub: both read these once.
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}

import psutil
import pytest
from endpoints import ChatServer, FaultProxy, make_chat_model, serving
from filelock import FileLock
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

# Set by libraries, not by the code under test; put back after each test all the same.
LIBRARY_VARIABLES = {
    "PYTEST_CURRENT_TEST",  # pytest
    "PYTORCH_NVML_BASED_CUDA_CHECK",  # lightning, on import
    "TORCHINDUCTOR_CACHE_DIR",  # torch, on the first import of its compiler
    "KMP_DUPLICATE_LIB_OK",  # scikit-learn, on import
    "KMP_INIT_AT_FORK",
    "PL_GLOBAL_SEED",  # lightning.seed_everything
    "PL_SEED_WORKERS",
}

settings.register_profile("deterministic", derandomize=True, deadline=None, database=None)
settings.load_profile("deterministic")


def leaked_variables(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Names of the variables that were added, removed or changed, except those that libraries set."""
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    return sorted(changed - LIBRARY_VARIABLES)


def child_processes(pid: int) -> set[psutil.Process]:
    """The processes below one, from /proc: psutil would read every process of the machine, twice for each test."""
    found = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError, psutil.NoSuchProcess):  # it has ended meanwhile
            for child in map(int, task.read_text().split()):
                found |= {psutil.Process(child)} | child_processes(child)
    return found


def leaked_processes(before: set[psutil.Process]) -> list[psutil.Process]:
    """Child processes that were not there before and do not end by themselves within two seconds."""
    started = [child for child in child_processes(os.getpid()) if child not in before]
    _, alive = psutil.wait_procs(started, timeout=2) if started else ([], [])
    return [child for child in alive if not _is_kept(child)]


def _is_kept(process: psutil.Process) -> bool:
    """Python starts one tracker of shared memory and one server of forks and keeps both to the end."""
    try:
        ours = process.ppid() == os.getpid()  # what the server forked is called as it is
        kept = ("multiprocessing.resource_tracker", *(["multiprocessing.forkserver"] if ours else []))
        return any(name in part for name in kept for part in process.cmdline())
    except psutil.NoSuchProcess:
        return True


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Fail a test that leaks environment variables or child processes, and clean up so that the next one is not hit."""
    variables, processes = dict(os.environ), child_processes(os.getpid())
    yield
    leaks = leaked_variables(variables, os.environ)
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)
    children = leaked_processes(processes)
    names = [child.name() for child in children]
    for child in children:
        child.kill()
    psutil.wait_procs(children, timeout=2)
    if leaks:
        pytest.fail(f"the test leaked environment variables: {', '.join(leaks)}; use monkeypatch.setenv")
    if names:
        pytest.fail(f"the test left child processes behind: {', '.join(names)}; stop them and wait for them")


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """What a killed process has written is there all the same: only a cut of power, which no test has, needs `fsync`.

    It would be a tenth of the time of a small fit. Ranks of `fault_injection` do so too; a `seal` of its own waits.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", os.fstat)  # which fails on what is not open, too
        yield


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Fill a folder once for all test processes: `once(name, fill)` is the folder, filled by whoever comes first."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def folder(name: str, fill: Callable[[Path], object]) -> Path:
        made = root / name
        with FileLock(made.with_suffix(".lock")):
            if not made.with_suffix(".done").exists():
                made.mkdir(exist_ok=True)
                fill(made)
                made.with_suffix(".done").touch()
        return made

    return folder


@pytest.fixture(scope="session")
def two_rounds(once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """The folder of a run of two rounds in one process (`fault_injection.config`), made once; only to be read."""
    from fault_injection import finished, fit  # here: it imports torch and DeepSpeed

    return once("uninterrupted-single", lambda folder: finished(fit(folder / "run", "single"))) / "run"


@pytest.fixture(scope="session")
def lab_runs(once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """A folder with `run` of a fit that was tested, and `adapted`, both in the lab; only to be read."""
    from lab_runs import fill  # here: it imports torch

    return once("lab-runs", fill)


@pytest.fixture(scope="session")
def chat_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatServer]:
    """A real `transformers serve` with the lab model, one a test process: `.base_url` and `.model`; up in 8 seconds."""
    model = tmp_path_factory.mktemp("served") / "model"
    make_chat_model(model)
    with serving(model) as server:
        yield server


@pytest.fixture
def fault_proxy(chat_server: ChatServer) -> Iterator[Callable[..., FaultProxy]]:
    """Put a proxy before the server: `fault_proxy(share=0.2, faults={"busy": 1}, seed=3)`; without faults it counts."""
    with ExitStack() as stack:
        yield lambda **plan: stack.enter_context(FaultProxy(chat_server.base_url, **plan))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the repository with published data and small models; tests that need it skip without it."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(ALLOWED_SKIPS[1])
    return folder


class WritesMarker:
    """Pickles to an instruction that writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.write_text, (self.marker, "ran")


@pytest.fixture
def writes_marker() -> type[WritesMarker]:
    """What somebody's pickle may hold: `writes_marker(path)` writes `path` when it is loaded as code."""
    return WritesMarker


# What a machine may lack on which the whole suite is to run (CI is set): everything else is installed there.
ALLOWED_SKIPS = (
    "needs a CUDA device",
    "needs the folder 'shared' beside the repository",
    "needs a server beside this environment",  # vLLM and llama.cpp bring a torch and a build of their own
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where CI is set, a test that is skipped for another reason than the allowed ones fails."""
    report = yield
    if "CI" in os.environ:
        refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same of a file that is skipped as a whole."""
    report = yield
    if "CI" in os.environ:
        refuse_skip(report)
    return report


def refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Make a report of a skip one of a failure, unless its reason is allowed."""
    if not report.skipped or hasattr(report, "wasxfail") or not isinstance(report.longrepr, tuple):
        return
    reason = str(report.longrepr[2]).removeprefix("Skipped: ")
    if reason not in ALLOWED_SKIPS:
        report.outcome = "failed"
        allowed = " or ".join(ALLOWED_SKIPS)
        report.longrepr = f"skipped ({reason}), and where CI is set nothing may be but what {allowed}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where there is no CUDA device; torch is imported only if there are any."""
    marked = [item for item in items if item.get_closest_marker("gpu")]  # a folder of that name is a keyword, too
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=ALLOWED_SKIPS[0]))
