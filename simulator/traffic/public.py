"""Public traces: what they are, whose they are, and how to get them. None is shipped with dsim."""

from __future__ import annotations

import difflib
import hashlib
import os
import shutil
from pathlib import Path
from typing import Literal

from simulator.errors import TraceError
from simulator.files import whole, why_not_writable
from simulator.schema import Frozen

_AZURE = "https://raw.githubusercontent.com/Azure/AzurePublicDataset/790921015d50dd6aae7f7e47f39ba0e235ad6b08/data/"
_MOONCAKE = "https://raw.githubusercontent.com/kvcache-ai/Mooncake/{commit}/FAST25-release/traces/"
_SPLITWISE = "Patel et al., Splitwise: Efficient generative LLM inference using phase splitting, ISCA 2024"
_FAST25 = "Qin et al., Mooncake: Trading More Storage for Less Computation - A KVCache-centric Architecture for Serving LLM Chatbot, FAST 2025"


REGISTRIES = Path(__file__).parent / "registries"


class PublicTrace(Frozen):
    """One public trace: where it is from, under which licence, and the checksum of the file this version of dsim knows.

    A trace of many files has a `registry`, a list of their checksums that comes with dsim; `url` is then their folder and `sha256` the list's.
    """

    name: str
    title: str
    url: str
    licence: str
    citation: str
    sha256: str
    size_bytes: int
    format: Literal["azure", "mooncake", "servegen"]
    registry: str | None = None

    @property
    def file_name(self) -> str:
        """The file's name at its source."""
        return self.url.rsplit("/", 1)[-1]

    @property
    def files(self) -> dict[str, str]:
        """Names and checksums of its files at their source."""
        if self.registry is None:
            return {self.file_name: self.sha256}
        lines = (REGISTRIES / self.registry).read_text(encoding="utf-8").splitlines()
        return {name: known for known, name in (line.split() for line in lines)}


_CATALOGUE = (
    PublicTrace(
        name="azure-2023-conversation",
        title="Azure LLM inference 2023, conversation service: 19,366 requests in 58 minutes",
        url=_AZURE + "AzureLLMInferenceTrace_conv.csv",
        licence="CC-BY-4.0",
        citation=_SPLITWISE,
        sha256="2f1e5b666d4e3055fdbba98598ce2ec307767b9064e03e2fa46676dbcc7d0bf8",
        size_bytes=719188,
        format="azure",
    ),
    PublicTrace(
        name="azure-2023-code",
        title="Azure LLM inference 2023, code service: 8,819 requests in 57 minutes, in bursts",
        url=_AZURE + "AzureLLMInferenceTrace_code.csv",
        licence="CC-BY-4.0",
        citation=_SPLITWISE,
        sha256="54e9a6d2a4bd06ba1e060304b900abbc74cbea53de96506e60fe5bb4f2277fb6",
        size_bytes=320117,
        format="azure",
    ),
    PublicTrace(
        name="mooncake-conversation",
        title="Mooncake (Kimi) FAST'25 conversation: 12,031 requests in 59 minutes, with prefix blocks",
        url=_MOONCAKE.format(commit="a2a4b18ac537fd798d50e6e9f57031ce86419a37") + "conversation_trace.jsonl",
        licence="Apache-2.0",
        citation=_FAST25,
        sha256="b8cbb061a85206d729d91cdc2981f43c9e0d99209dce588d3af5f7934408b9df",
        size_bytes=3029533,
        format="mooncake",
    ),
    PublicTrace(
        name="mooncake-synthetic",
        title="Mooncake FAST'25 synthetic (public datasets, Poisson arrivals): 3,993 requests in 17 minutes, with prefix blocks",
        url=_MOONCAKE.format(commit="3cca71daccf2a7afb8fe3f0295358f70e3a69fdb") + "synthetic_trace.jsonl",
        licence="Apache-2.0",
        citation=_FAST25,
        sha256="bd070915a98fc0ed264d7cfef2ce746002eb3076a695ec31ba2674c0111ec131",
        size_bytes=1136313,
        format="mooncake",
    ),
    PublicTrace(
        name="servegen-deepseek-r1",
        title="A production DeepSeek-R1 service as 73 clients: rates, burstiness and lengths over a day in ten-minute windows",
        url="https://raw.githubusercontent.com/alibaba/ServeGen/f891d11/data/reason/deepseek-r1/",
        licence="Apache-2.0",
        citation="Xiang et al., ServeGen: Workload Characterization and Generation of Large Language Model Serving in Production, arXiv 2505.09999",
        sha256="83a41493ae6ba7446ffabdeef861a3bfadfec496f302eb05236aa73627847a9e",
        size_bytes=13213280,
        format="servegen",
        registry="servegen-deepseek-r1.sha256",
    ),
)


def catalogue() -> tuple[PublicTrace, ...]:
    """All public traces dsim knows."""
    return _CATALOGUE


def entry(name: str) -> PublicTrace:
    """The public trace of this name."""
    known = {trace.name: trace for trace in catalogue()}
    if name in known:
        return known[name]
    near = [known_name for known_name in known if known_name.startswith(name)] or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    remedy = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
    raise TraceError(f"unknown public trace '{name}'", remedy=remedy)


def cache_folder() -> Path:
    """Where fetched traces are kept: DSIM_CACHE, else the user's cache folder."""
    given = os.environ.get("DSIM_CACHE")
    if given:
        return Path(given).expanduser()
    import pooch  # here, for it is slow to import and few runs need it

    return Path(pooch.os_cache("dsim"))


def cached_path(name: str) -> Path:
    """Where the trace is, or would be, in the cache: a file, or the folder of its files."""
    return cache_folder() / (name + Path(entry(name).file_name).suffix)


def _places(trace: PublicTrace) -> dict[str, Path]:
    """Where each of its files is, or would be, in the cache, by its name at the source."""
    target = cached_path(trace.name)
    return {file: target if trace.registry is None else target / file for file in trace.files}


def is_here(name: str) -> bool:
    """Is the whole trace in the cache?"""
    return all(place.is_file() for place in _places(entry(name)).values())


def known_name(name: str, *, clients: bool) -> str:
    """The name, if it is that of a folder of clients, or of a trace of requests. Raises ValueError, for validators."""
    try:
        format = entry(name).format
    except TraceError as problem:
        raise ValueError(problem.line()) from None
    if (format == "servegen") != clients:
        kinds = ("a folder of clients", "a trace of requests") if format == "servegen" else ("a trace of requests", "a folder of clients")
        raise ValueError(f"'{name}' is {kinds[0]}, not {kinds[1]}: use workload.{'servegen' if format == 'servegen' else 'trace'}")
    return name


def find(name: str, key: str, instead: str) -> Path:
    """The trace in the cache. Raises TraceError, at `key`, where it is not there; `instead` is what else the user can give."""
    if not is_here(name):
        problem = f"the public trace '{name}' is not on this machine"
        raise TraceError(problem, key=key, remedy=f"run `dsim traces get {name}` or give --set {instead}")
    return cached_path(name)


def fetch(name: str, *, base_url: str | None = None) -> Path:
    """Download the trace into the cache, what of it is not there already, and check it. `base_url` is another folder that holds the same."""
    trace = entry(name)
    source = (base_url or trace.url.rpartition("/")[0]).rstrip("/")
    for file, place in _places(trace).items():
        _retrieve(trace, f"{source}/{file}", trace.files[file], place)
    return cached_path(name)


def _retrieve(trace: PublicTrace, url: str, known: str, target: Path) -> None:
    """One file. Raises TraceError where it cannot be had or is another."""
    import pooch

    name, what = trace.name, "FILE" if trace.registry is None else "FOLDER"
    _make(target.parent)
    pooch.get_logger().setLevel("WARNING")
    by_hand = f"get the {what.lower()} by other means, then run `dsim traces add {name} {what}`"
    try:
        pooch.retrieve(url, known_hash=f"sha256:{known}", fname=target.name, path=target.parent)
    except OSError as problem:  # all that requests raises is one
        response = getattr(problem, "response", None)
        why = f"HTTP {response.status_code}" if response is not None else problem.strerror or "no connection"
        raise TraceError(f"cannot download {url} ({why})", key=name, remedy=by_hand) from None
    except ValueError:
        remedy = f"the file at the source has changed; {by_hand} (sha256 {known})"
        raise TraceError(f"what {url} holds is not the file dsim knows (wrong checksum)", key=name, remedy=remedy) from None


def adopt(name: str, file: Path) -> Path:
    """Copy a file the user has (or a folder, of a trace of many files) into the cache, if it is the trace of this name."""
    trace = entry(name)
    copies = [(file if trace.registry is None else file / part, place, trace.files[part]) for part, place in _places(trace).items()]
    for given, _, known in copies:
        found = _sha256(given)
        if found != known:
            problem = f"is not the file of '{name}': its sha256 is {found[:12]}..., expected {known[:12]}..."
            raise TraceError(problem, where=given, remedy=f"get it from {trace.url}")
    for given, place, _ in copies:
        _make(place.parent)
        with whole(place) as draft:
            shutil.copyfile(given, draft)
    return cached_path(name)


def _make(folder: Path) -> None:
    """Make the cache's folder, or say that it cannot be written."""
    why = why_not_writable(folder)
    if why is not None:
        raise TraceError(f"the cache cannot be written ({why})", where=folder, remedy="set DSIM_CACHE to a folder you may write")


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as problem:
        raise TraceError(f"cannot be read ({problem.strerror})", where=file, remedy="check the path") from None
