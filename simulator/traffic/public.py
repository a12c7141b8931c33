"""Public traces: source, licence, and how to get them. dsim ships none of them."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import time
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from simulator.errors import TraceError
from simulator.files import user_cache, why_not_writable, write_whole
from simulator.misspelt import nearest
from simulator.names import FileName, check_place, home
from simulator.quantities import Within
from simulator.reading.limits import STREAM_MB
from simulator.reading.opening import read_bytes, read_text
from simulator.reading.yaml_files import parse_yaml
from simulator.schema import Frozen

REGISTRIES = Path(__file__).parent / "registries"
_SILENT_S, _LONGEST_S = 30.0, 600.0  # of a download: without a byte, and in all
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class PublicTrace(Frozen):
    """One public trace: source, licence, and the checksum of the file that this version of dsim expects.

    A trace of many files has a `registry`, a file with their checksums. Then `url` is their folder, and `sha256` that of the registry.
    """

    name: FileName
    title: str
    url: Annotated[str, Field(pattern=r"^https?://[^\s?#]+/[^\s?#]*$")]
    licence: str
    citation: str
    sha256: Sha256
    size_bytes: Annotated[int, Within(1, 1e10, "bytes")]
    format: Literal["azure", "mooncake", "servegen"]
    registry: FileName | None = None

    @property
    def file_name(self) -> str:
        """The file's name at its source."""
        return self.url.rsplit("/", 1)[-1]

    @property
    def files(self) -> dict[str, str]:
        """SHA-256 of each of its files, by name."""
        if self.registry is None:
            return {self.file_name: self.sha256}
        files = {}
        for number, line in enumerate(read_text(REGISTRIES / self.registry, TraceError).splitlines(), 1):
            match = re.fullmatch(r"([0-9a-f]{64})  ([A-Za-z0-9_][A-Za-z0-9._-]*)", line)  # a name, never a path
            if not match:
                where = f"{REGISTRIES / self.registry}:{number}"
                raise TraceError("expected a checksum and the name of a file", where=where, remedy="install dsim again")
            files[match[2]] = match[1]
        return files


@lru_cache(maxsize=1)
def catalogue() -> tuple[PublicTrace, ...]:
    """All public traces that dsim knows (registries/catalogue.yaml)."""
    file = REGISTRIES / "catalogue.yaml"
    entries = parse_yaml(read_text(file, TraceError), file, TraceError)
    return tuple(PublicTrace.model_validate(entry) for entry in entries)


def entry(name: str) -> PublicTrace:
    """The public trace of this name. Raises TraceError with the nearest one."""
    traces = {trace.name: trace for trace in catalogue()}
    if name in traces:
        return traces[name]
    starts = [full for full in traces if full.startswith(name)]
    raise TraceError(f"unknown public trace '{name}'", remedy=nearest(starts[0] if starts else name, list(traces), "public traces"))


def cache_folder() -> Path:
    """Where downloaded traces are kept: DSIM_CACHE, else the user's cache folder."""
    if folder := os.environ.get("DSIM_CACHE"):
        return Path(folder).expanduser()
    return user_cache()


def cached_path(name: str) -> Path:
    """Path of the trace in the cache, present or not: a file, or the folder of its files."""
    return cache_folder() / (name + Path(entry(name).file_name).suffix)


def _places(trace: PublicTrace) -> dict[str, Path]:
    """Path in the cache of each of its files, by name."""
    target = cached_path(trace.name)
    return {file: target if trace.registry is None else target / file for file in trace.files}


def is_here(name: str) -> bool:
    """Is the whole trace in the cache?"""
    return all(place.is_file() for place in _places(entry(name)).values())


class PublicSource(Frozen):
    """Traffic from a `path`, or from the `name` of a public trace (`dsim traces list`); a path wins over a name."""

    key: ClassVar[Literal["trace", "servegen"]]  # of a workload
    place: ClassVar[str] = ""  # where it is another

    path: Annotated[Path, AfterValidator(check_place), AfterValidator(home)] | None = None
    name: str | None = None

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        if name is None:
            return None
        try:
            key = "servegen" if entry(name).format == "servegen" else "trace"
        except TraceError as problem:
            raise ValueError(problem.line()) from None
        if key != cls.key:
            kinds = {"trace": "a trace of requests", "servegen": "a folder of clients"}
            raise ValueError(f"expected {kinds[cls.key]}, '{name}' is {kinds[key]}: use workload.{key}")
        return name

    @model_validator(mode="after")
    def _has_a_source(self) -> Self:
        if self.path is None and self.name is None:
            raise ValueError("expected a path or the name of a public trace (see `dsim traces list`)")
        return self

    def cached(self) -> Path:
        """The public trace in the cache. Raises TraceError where it has not been downloaded."""
        assert self.name is not None
        self.check_here(f"{self.place or f'workload.{self.key}'}.path")
        return cached_path(self.name)

    def check_here(self, key: str) -> None:
        """Raises TraceError where it is a public trace that has not been downloaded; `key` is where --set takes a path."""
        if self.path is None and self.name is not None and not is_here(self.name):
            remedy = f"run `dsim traces get {self.name}` or pass --set {key}={'FOLDER' if self.key == 'servegen' else 'FILE'}"
            raise TraceError(f"the public trace '{self.name}' is not on this machine", key=self.key, remedy=remedy)


def fetch(name: str, *, base_url: str | None = None) -> Path:
    """Download into the cache what is not there yet, and check it. `base_url` is a mirror of the folder."""
    trace = entry(name)
    source = (base_url or trace.url.rpartition("/")[0]).rstrip("/")
    for file, place in _places(trace).items():
        _retrieve(trace, f"{source}/{file}", trace.files[file], place)
    return cached_path(name)


def _retrieve(trace: PublicTrace, url: str, checksum: str, target: Path) -> None:
    """Download one file. Raises TraceError when that fails or the checksum differs; then nothing is left of it."""
    import pooch

    name, what = trace.name, "FILE" if trace.registry is None else "FOLDER"
    _make(target.parent)
    pooch.get_logger().setLevel("WARNING")
    by_hand = f"get the {what.lower()} by other means, then run `dsim traces add {name} {what}`"
    try:
        pooch.retrieve(url, known_hash=f"sha256:{checksum}", fname=target.name, path=target.parent, downloader=partial(_download, trace.size_bytes))
    except OSError as problem:  # all that requests raises is one
        response = getattr(problem, "response", None)
        why = f"HTTP {response.status_code}" if response is not None else problem.strerror or "no connection"
        raise TraceError(f"cannot download {url} ({why})", key=name, remedy=by_hand) from None
    except ValueError:
        remedy = f"the file at the source has changed; {by_hand} (sha256 {checksum})"
        raise TraceError(f"wrong checksum for {url}", key=name, remedy=remedy) from None


def _download(most_bytes: int, url: str, file: str, _: object) -> None:
    """Stream a URL to a file, no more than so many bytes of it, by redirects of its own scheme only. Raises OSError, and ValueError where there
    are more."""
    import requests
    from urllib3.exceptions import HTTPError

    deadline_s = time.monotonic() + _LONGEST_S
    with requests.Session() as session, open(file, "wb") as content:
        session.adapters.clear()
        session.mount(f"{url.partition('://')[0]}://", requests.adapters.HTTPAdapter())
        session.max_redirects = 5
        try:
            # as it is: what is packed would have no size
            with session.get(url, stream=True, timeout=_SILENT_S, headers={"Accept-Encoding": "identity"}) as response:
                response.raise_for_status()
                read = getattr(response.raw, "read1", response.raw.read)  # what has come; urllib3 of before 2.1 waits for all
                while part := read(1 << 16, decode_content=False):
                    most_bytes -= len(part)
                    if most_bytes < 0:
                        raise ValueError("larger than the trace")
                    if time.monotonic() > deadline_s:
                        raise OSError(errno.ETIMEDOUT, f"not there after {_LONGEST_S:g} s")
                    content.write(part)
        except requests.exceptions.InvalidSchema:
            raise OSError(errno.EPROTO, "redirected to another scheme") from None
        except HTTPError:
            raise OSError(errno.ECONNABORTED, "the connection broke") from None


def adopt(name: str, file: Path) -> Path:
    """Copy a file (or a folder, for a trace of many files) into the cache. Raises TraceError unless it is this trace."""
    trace = entry(name)
    contents = {}
    for part, place in _places(trace).items():
        original = file if trace.registry is None else file / part
        larger = original.is_file() and original.stat().st_size > trace.size_bytes
        contents[place] = b"" if larger else read_bytes(original, TraceError, most_mb=STREAM_MB)
        checksum = hashlib.sha256(contents[place]).hexdigest()
        if checksum != trace.files[part]:
            problem = (
                f"is not the file of '{name}': expected sha256 {trace.files[part][:12]}..., got {'more bytes' if larger else checksum[:12] + '...'}"
            )
            raise TraceError(problem, where=original, remedy=f"get it from {trace.url}")
    for place, content in contents.items():
        _make(place.parent)
        write_whole(place, content)
    return cached_path(name)


def _make(folder: Path) -> None:
    """Create the cache's folder. Raises TraceError when it cannot be written to."""
    why = why_not_writable(folder)
    if why is not None:
        raise TraceError(f"the cache cannot be written ({why})", where=folder, remedy="set DSIM_CACHE to a folder you can write to")
