"""One reading of hostile files, watched: what it opens and starts, how long it takes, how much memory, what it leaves, and how it ends."""

from __future__ import annotations

import io
import itertools
import os
import resource
import shutil
import signal
import sys
import sysconfig
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NoReturn

import typer

from simulator.errors import DsimError

ROOT = Path(__file__).resolve().parents[2]
CPU_S = 60.0  # tells an endless loop from work; a fit takes 1 s on a quiet core and 7 s on one that shares its caches and units with others
WALL_S = 240.0  # for what waits and takes no time, such as a FIFO
MEMORY = 1 << 30  # bytes above what the process had
ADDRESSES = 3 << 30  # bytes of address space above what the process had: an absurd array is refused before it is made
LONGEST_LINE = 1000  # characters of an error

Read = Callable[[Path], object]


@dataclass(frozen=True)
class Verdict:
    """How a reading ended: `detail` is the error's line, or what went wrong."""

    end: Literal["accepted", "refused", "failed"]
    detail: str = ""


class Escape(BaseException):
    """The reader did what no reader of a file may do. Not an Exception, so that nobody takes it for one of theirs."""


class TooLong(BaseException):
    """The reader took too long."""


class _Watch:
    """What is allowed while a reader runs: to read and write in `folder`, and to read what belongs to Python."""

    def __init__(self, folder: Path) -> None:
        self.folder = os.path.realpath(folder) + os.sep
        self.escapes: list[str] = []

    def refuse(self, what: str) -> NoReturn:
        self.escapes.append(what)
        raise Escape(what)

    def inside(self, path: Any) -> bool:
        return f"{os.path.realpath(os.fsdecode(path))}{os.sep}".startswith(self.folder)


_watch: _Watch | None = None
_OURS = (f"{ROOT}/simulator", f"{ROOT}/real_runner")
_DEVICES = ("/dev/null", "/dev/urandom", "/dev/zero")  # a reader may look what kind of file the last one is
_STARTS = frozenset({"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn", "socket.connect",
                     "socket.getaddrinfo", "socket.bind", "pickle.find_class", "marshal.loads", "ctypes.dlopen", "webbrowser.open"})  # fmt: skip
_CHANGES = frozenset({"os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown",
    "shutil.rmtree",
                      "shutil.move", "shutil.copyfile", "shutil.copytree"})  # fmt: skip
_COMPILERS = ("importlib", "collections", "dataclasses", "enum", "functools", "typing", "jinja2", "pydantic", "matplotlib", "torch", "transformers",
              "scipy", "numpy", "traceback", "linecache", "attr", "namedtuple", "numba", "typer", "click", "rich", "inspect")  # fmt: skip


@cache
def _readable() -> tuple[str, ...]:
    """Folders of Python, of its packages and of this repository, and what the system's libraries read."""
    import matplotlib

    folders = [sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib"), str(ROOT), *filter(os.path.isdir, sys.path)]
    folders += [matplotlib.get_cachedir(), matplotlib.get_configdir(), "/usr/share", "/proc/self"]
    return tuple(os.path.realpath(folder) + os.sep for folder in folders)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    """Python's audit hook. It cannot be taken out again, so it looks at nothing while nobody is watched."""
    global _watch  # noqa: PLW0603
    watch = _watch
    if watch is None:
        return
    _watch = None  # what this function itself does is not looked at
    try:
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            _opened(watch, *arguments)
        elif event in _STARTS and not _importing():
            watch.refuse(f"{event} {arguments!r:.200}")
        elif event in _CHANGES:
            outside = [
                path for path in arguments[:2] if isinstance(path, str | bytes | os.PathLike) and not watch.inside(os.path.dirname(path) or ".")
            ]
            if outside and event != "os.symlink":
                watch.refuse(f"{event} {outside[0]!r}")
        elif event in ("compile", "exec") and not _by_python():
            watch.refuse(f"{event} {arguments!r:.200}")
    finally:
        _watch = watch


def _opened(watch: _Watch, path: Any, mode: str | None, flags: int) -> None:
    writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND) if isinstance(flags, int) else "r" not in (mode or "r")
    if watch.inside(path) or os.path.realpath(os.fsdecode(path)) in _DEVICES:
        return
    if writes or not os.path.realpath(os.fsdecode(path)).startswith(_readable()):
        watch.refuse(f"open {os.fsdecode(path)!r} {'to write' if writes else 'to read'}")


def _frames() -> Iterator[str]:
    frame = sys._getframe(3)
    while frame is not None:
        yield frame.f_code.co_filename
        frame = frame.f_back  # type: ignore[assignment]


def _importing() -> bool:
    return any("importlib" in name for name in _frames())


def _by_python() -> bool:
    """Is source compiled by an import, or for us by a library that makes classes and templates?"""
    between = itertools.takewhile(lambda name: not name.startswith(_OURS), _frames())
    return _importing() or any(part.removesuffix(".py") in _COMPILERS for name in between for part in Path(name).parts)


sys.addaudithook(_hook)


@contextmanager
def _announced() -> Iterator[None]:
    """Libraries that open files in C++ or Rust say so to the audit hook, as Python's own `open` does."""
    with ExitStack() as undo:
        for module, names in (("pyarrow", ("OSFile", "memory_map")), ("pyarrow.parquet", ("read_table", "ParquetFile", "read_schema",
        "read_metadata")),
                              ("safetensors", ("safe_open",)), ("safetensors.torch", ("load_file",)), ("real_runner.drafters.loading",
                              ("safe_open",)),
                              ("real_runner.expect", ("load_file",))):  # fmt: skip
            library = sys.modules.get(module)
            for name in names if library is not None else ():
                if (original := getattr(library, name, None)) is not None:
                    setattr(library, name, _telling(original))
                    undo.callback(setattr, library, name, original)
        yield


def _telling(original: Any) -> Any:
    def opened(path: Any, *more: Any, **keys: Any) -> Any:
        if isinstance(path, str | os.PathLike):
            sys.audit("open", os.fspath(path), "rb", os.O_RDONLY)
        return original(path, *more, **keys)

    return opened


@contextmanager
def _nothing_compiled_kept() -> Iterator[None]:
    """What is imported while somebody reads writes no bytecode beside its source."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


@contextmanager
def _bounded() -> Iterator[None]:
    """Time and memory have an end."""

    def over(number: int, _frame: object) -> None:
        raise TooLong(f"more than {CPU_S:g} s of CPU time" if number == signal.SIGPROF else f"waits for more than {WALL_S:g} s")

    before = {number: signal.signal(number, over) for number in (signal.SIGPROF, signal.SIGALRM)}
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ADDRESSES, hard))
    signal.setitimer(signal.ITIMER_PROF, CPU_S)
    signal.setitimer(signal.ITIMER_REAL, WALL_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        for number, handler in before.items():
            signal.signal(number, handler)


def _memory() -> tuple[int, int]:
    """Bytes that this process has, and the most that it has had since they were last reset."""
    status = Path("/proc/self/status").read_text()
    now, most = (int(status[status.index(name) + 6 :].split(maxsplit=1)[0]) * 1024 for name in ("VmRSS:", "VmHWM:"))
    return now, most


def _forget_peak() -> None:
    """Counts the most memory anew. It takes milliseconds in a large process, so it is done after a peak only."""
    Path("/proc/self/clear_refs").write_text("5")


def _files(folder: Path) -> set[str]:
    return {os.path.join(where, name) for where, folders, names in os.walk(folder) for name in (*folders, *names)}


def judge(read: Read, folder: Path) -> Verdict:
    """Reads the files in `folder` from there as the working folder. Failed is all that is neither success nor DsimError: another exception, too much
    time or memory, a look or a step outside, files left behind by a refusal, an error that is not one short printable line, unprintable output."""
    global _watch  # noqa: PLW0603
    before, home = _files(folder), os.getcwd()
    start, peak = _memory()
    if peak > start + MEMORY // 2:
        _forget_peak()
    output, complaint, failure = io.StringIO(), None, ""
    os.chdir(folder)
    watch = _Watch(folder)
    try:
        with warnings.catch_warnings(), redirect_stdout(output), redirect_stderr(io.StringIO()), _announced(), _nothing_compiled_kept(), _bounded():
            warnings.simplefilter("ignore")
            _watch = watch
            try:
                read(folder)
            finally:
                _watch = None
    except DsimError as problem:
        complaint = problem.line()
    except typer.Exit:
        pass  # a comparison that does not hold
    except KeyboardInterrupt:
        raise
    except BaseException as problem:  # all of it is a failure of the reader
        failure = f"{type(problem).__name__}: {str(problem)[:200]} at {_place(problem)}"
    finally:
        os.chdir(home)
    if watch.escapes:
        failure = f"Escape: {watch.escapes[0]}"
    elif not failure and (peak := _memory()[1]) > start + MEMORY:
        failure = f"memory: {(peak - start) / 1e9:.1f} GB"
    elif not failure and complaint is not None:
        left = sorted(_files(folder) - before)
        failure = _unfit(complaint) or (f"refused, but left {os.path.relpath(left[0], folder)}" if left else "")
    elif not failure and (bad := [mark for mark in output.getvalue() if not mark.isprintable() and mark not in "\n\t"]):
        failure = f"printed {bad[0]!r}"
    if failure:
        return Verdict("failed", failure)
    return Verdict("accepted") if complaint is None else Verdict("refused", complaint)


def _unfit(line: str) -> str:
    """What is wrong with an error's line."""
    if len(line) > LONGEST_LINE:
        return f"an error of {len(line)} characters: {line[:120]}"
    return "" if line.isprintable() else f"an error with unprintable characters: {line[:200]!a}"


def _place(problem: BaseException) -> str:
    """The last line of ours that the exception passed, and the very last."""
    frames = traceback.extract_tb(problem.__traceback__)
    ours = [f for f in frames if "site-packages" not in f.filename and any(part in f.filename for part in ("/simulator/", "/real_runner/"))]
    return ", ".join(dict.fromkeys(f"{Path(f.filename).name}:{f.lineno}" for f in (*ours[-1:], *frames[-1:])))


@contextmanager
def workshop() -> Iterator[Path]:
    """A temporary folder for readings, in memory where that is possible."""
    shm = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="dsim-fuzz-", dir=shm if os.access(shm, os.W_OK) else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
