"""The downloader, against a server on this machine: right file, wrong file, no file, no network."""

from __future__ import annotations

import gzip
import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from simulator.errors import TraceError
from simulator.traffic import public
from simulator.traffic.servegen import ServeGenSource
from simulator.traffic.traces import TraceSource

CONTENT = b"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n"
TINY = public.PublicTrace(
    name="azure-2023-code",
    title="one request",
    url="http://127.0.0.1:9/data/tiny.csv",
    licence="CC0",
    citation="us",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    size_bytes=len(CONTENT),
    format="azure",
)


class Quiet(SimpleHTTPRequestHandler):
    """Files of a folder, and what hostile servers do."""

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        kind, _, target = self.path.strip("/").partition("/")
        if kind == "redirect":
            self.send_response(302)
            self.send_header(
                "Location", {"file": "file:///etc/hostname", "ftp": "ftp://127.0.0.1/tiny.csv", "round": self.path}[target.partition("/")[0]]
            )
            self.end_headers()
        elif kind == "endless":
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                while True:
                    self.wfile.write(b"0" * 65536)
        elif kind == "broken":
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[:10])
        elif kind == "silent":
            time.sleep(0.3)
        elif kind == "packed":
            self.send_response(200)
            self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            self.wfile.write(gzip.compress(CONTENT))
        else:
            super().do_GET()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(public, "catalogue", lambda: (TINY,))
    monkeypatch.setenv("DSIM_CACHE", str(tmp_path / "cache"))
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_trace_is_fetched_once_and_then_loads_by_name(cache: Path, served: tuple[Path, str]) -> None:
    folder, url = served
    (folder / "tiny.csv").write_bytes(CONTENT)
    path = public.fetch(TINY.name, base_url=url + "/")
    assert path == public.cached_path(TINY.name) == cache / "azure-2023-code.csv"
    assert path.read_bytes() == CONTENT
    (folder / "tiny.csv").unlink()
    assert public.fetch(TINY.name, base_url=url) == path  # from the cache
    assert len(TraceSource(name=TINY.name).load(Path("/nowhere"))) == 1


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("redirect/file", "(redirected to another scheme); get the file by other means"),
        ("redirect/ftp", "(redirected to another scheme)"),
        ("redirect/round", "cannot download http"),
        ("endless", "wrong checksum"),
        ("broken", "(the connection broke)"),
        ("silent", "(no connection)"),
        ("packed", "wrong checksum"),
    ],
)
def test_a_hostile_server_is_one_line_and_leaves_nothing(
    cache: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, kind: str, says: str
) -> None:
    monkeypatch.setattr(public, "_SILENT_S", 0.15)
    with pytest.raises(TraceError) as caught:
        public.fetch(TINY.name, base_url=f"{served[1]}/{kind}")
    assert says in str(caught.value)
    assert list(cache.iterdir()) == []


def test_a_download_has_an_end(cache: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public, "_LONGEST_S", -1.0)
    (served[0] / "tiny.csv").write_bytes(CONTENT)
    with pytest.raises(TraceError, match="not there after -1 s"):
        public.fetch(TINY.name, base_url=served[1])
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("line", ["../x.csv", "/x.csv", "a/b.csv", "..", "", "x.csv\ty", "x .csv"])
def test_a_list_of_files_names_files_and_no_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    (tmp_path / "list.sha256").write_text(f"{'0' * 64}  a.csv\n{'0' * 64}  {line}\n")
    monkeypatch.setattr(public, "REGISTRIES", tmp_path)
    with pytest.raises(TraceError, match=r"list\.sha256:2: expected a checksum and the name of a file"):
        _ = TINY.model_copy(update={"registry": "list.sha256"}).files
    with pytest.raises(ValueError, match="registry"):
        public.PublicTrace.model_validate(TINY.model_dump() | {"registry": "../list.sha256"})


def test_another_file_is_refused_and_leaves_nothing(cache: Path, served: tuple[Path, str]) -> None:
    folder, url = served
    (folder / "tiny.csv").write_bytes(CONTENT + b"more")
    with pytest.raises(TraceError, match=r"wrong checksum.*dsim traces add azure-2023-code FILE.*" + TINY.sha256):
        public.fetch(TINY.name, base_url=url)
    assert list(cache.iterdir()) == []


def test_no_file_and_no_network_say_where_to_get_it(cache: Path, served: tuple[Path, str]) -> None:
    _, url = served
    with pytest.raises(TraceError, match=r"tiny\.csv \(HTTP 404\); get the file by other means, then run `dsim traces add azure-2023-code FILE`"):
        public.fetch(TINY.name, base_url=url)
    with pytest.raises(TraceError) as caught:
        public.fetch(TINY.name)
    assert "cannot download http://127.0.0.1:9/data/tiny.csv (no connection)" in str(caught.value)
    assert "dsim traces add azure-2023-code FILE" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_adopt_takes_the_right_file_only(cache: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.csv"
    mine.write_bytes(CONTENT + b"more")
    with pytest.raises(TraceError, match=r"mine\.csv: is not the file of 'azure-2023-code'.*get it from http://127"):
        public.adopt(TINY.name, mine)
    assert not cache.exists()
    mine.write_bytes(CONTENT)
    assert public.adopt(TINY.name, mine) == public.cached_path(TINY.name)
    assert public.cached_path(TINY.name).read_bytes() == CONTENT
    assert [file.name for file in cache.iterdir()] == ["azure-2023-code.csv"]
    with pytest.raises(TraceError, match=r"none\.csv: no such file"):
        public.adopt(TINY.name, tmp_path / "none.csv")


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    (tmp_path / "mine.csv").write_bytes(CONTENT)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DSIM_CACHE", str(tmp_path / "file"))
    with pytest.raises(TraceError, match="set DSIM_CACHE to a folder you can write to"):
        public.adopt(TINY.name, tmp_path / "mine.csv")
    with pytest.raises(TraceError, match="set DSIM_CACHE to a folder you can write to"):
        public.fetch(TINY.name)


def test_the_catalogue_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DSIM_CACHE", raising=False)
    names = [trace.name for trace in public.catalogue()]
    assert len(set(names)) == len(names) == 7
    for trace in public.catalogue():
        place = trace.url.removeprefix("https://raw.githubusercontent.com/").removeprefix("https://media.githubusercontent.com/media/")  # large files
        assert len(trace.sha256) == 64
        assert len(place.split("/")[2]) == (7 if trace.registry else 40)  # a commit, so that the file cannot change; ServeGen's in short
        assert public.cached_path(trace.name).parent.name == "dsim"
    with pytest.raises(TraceError, match="unknown public trace 'mooncake-chat'; did you mean 'mooncake-"):
        public.entry("mooncake-chat")


@pytest.mark.shared
def test_the_catalogue_describes_the_real_files(shared_traffic: Path) -> None:
    for trace in (known for known in public.catalogue() if known.registry is None and not known.name.startswith("qwen-bailian")):
        folder = "azure2023" if trace.format == "azure" else "mooncake_fast25"
        content = (shared_traffic / folder / trace.file_name).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (trace.sha256, trace.size_bytes)


CLIENT = {
    "chunk-0-trace.csv": b"0,2.0,1.0,Gamma,1.0,0.5\n600,4.0,1.0,Gamma,1.0,0.25\n",
    "chunk-0-dataset.json": b'{"0": {"input_tokens": "{10: 1.0}", "output_tokens": "{5: 0.5, 7: 0.5}"}}',
}


def test_a_service_of_many_files_is_fetched_whole_or_said_to_be_missing(
    cache: Path, served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = served
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}" for name, content in CLIENT.items()]
    (tmp_path / "list.sha256").write_text("\n".join(lines) + "\n")
    service = TINY.model_copy(update={"name": "a-service", "url": "http://127.0.0.1:9/data/", "format": "servegen", "registry": "list.sha256"})
    monkeypatch.setattr(public, "catalogue", lambda: (TINY, service))
    monkeypatch.setattr(public, "REGISTRIES", tmp_path)
    (folder / "chunk-0-trace.csv").write_bytes(CLIENT["chunk-0-trace.csv"])
    with pytest.raises(TraceError, match=r"chunk-0-dataset\.json \(HTTP 404\).*dsim traces add a-service FOLDER"):
        public.fetch("a-service", base_url=url)
    assert not public.is_here("a-service")
    source = ServeGenSource(name="a-service")
    with pytest.raises(TraceError, match="run `dsim traces get a-service`"):
        source.service()
    (folder / "chunk-0-dataset.json").write_bytes(CLIENT["chunk-0-dataset.json"])
    (folder / "chunk-0-trace.csv").unlink()  # is there already
    assert public.fetch("a-service", base_url=url) == cache / "a-service"
    assert source.service().rates.tolist() == [[2.0, 4.0]]
    (folder / "chunk-0-trace.csv").write_bytes(b"0,1.0")
    with pytest.raises(TraceError, match="is not the file of 'a-service'"):
        public.adopt("a-service", folder)
    with pytest.raises(ValueError, match=r"use workload\.servegen"):
        TraceSource(name="a-service")
    with pytest.raises(ValueError, match=r"use workload\.trace"):
        ServeGenSource(name=TINY.name)


@pytest.mark.shared
def test_the_shipped_list_is_that_of_the_catalogue(shared_traffic: Path) -> None:
    trace = public.entry("servegen-deepseek-r1")
    registry = public.REGISTRIES / str(trace.registry)
    assert hashlib.sha256(registry.read_bytes()).hexdigest() == trace.sha256
    folder = shared_traffic / "servegen" / "data" / "reason" / "deepseek-r1"
    assert {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in trace.files} == trace.files
    assert sum((folder / name).stat().st_size for name in trace.files) == trace.size_bytes
