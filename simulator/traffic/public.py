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


class PublicTrace(Frozen):
    """One public trace: where it is from, under which licence, and the checksum of the file this version of dsim knows."""

    name: str
    title: str
    url: str
    licence: str
    citation: str
    sha256: str
    size_bytes: int
    format: Literal["azure", "mooncake"]

    @property
    def file_name(self) -> str:
        """The file's name at its source."""
        return self.url.rsplit("/", 1)[-1]


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
    """Where the trace is, or would be, in the cache."""
    return cache_folder() / (name + Path(entry(name).file_name).suffix)


def fetch(name: str, *, base_url: str | None = None) -> Path:
    """Download the trace into the cache, unless it is there, and check it. `base_url` is another folder that holds the same file."""
    import pooch

    trace, target = entry(name), cached_path(name)
    url = f"{base_url.rstrip('/')}/{trace.file_name}" if base_url else trace.url
    _make(target.parent)
    pooch.get_logger().setLevel("WARNING")
    by_hand = f"get the file by other means, then run `dsim traces add {name} FILE`"
    try:
        got = pooch.retrieve(url, known_hash=f"sha256:{trace.sha256}", fname=target.name, path=target.parent)
    except OSError as problem:  # all that requests raises is one
        response = getattr(problem, "response", None)
        why = f"HTTP {response.status_code}" if response is not None else problem.strerror or "no connection"
        raise TraceError(f"cannot download {url} ({why})", key=name, remedy=by_hand) from None
    except ValueError:
        remedy = f"the file at the source has changed; {by_hand} (sha256 {trace.sha256})"
        raise TraceError(f"what {url} holds is not the file dsim knows (wrong checksum)", key=name, remedy=remedy) from None
    return Path(got)


def adopt(name: str, file: Path) -> Path:
    """Copy a file the user has into the cache, if it is the trace of this name."""
    trace, target = entry(name), cached_path(name)
    found = _sha256(file)
    if found != trace.sha256:
        problem = f"is not the file of '{name}': its sha256 is {found[:12]}..., expected {trace.sha256[:12]}..."
        raise TraceError(problem, where=file, remedy=f"get it from {trace.url}")
    _make(target.parent)
    with whole(target) as draft:
        shutil.copyfile(file, draft)
    return target


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
