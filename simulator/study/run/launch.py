"""What to deploy for a policy, as a result holds it: scripts are made of it, so it names an engine's program, and files by plain names."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from simulator.study.run.record import Record, ShortText, distinct

_PROGRAMS = {"vLLM": ("vllm", "serve"), "SGLang": ("python3", "-m", "sglang.launch_server"), "llama.cpp": ("llama-server",)}


class EngineLaunch(Record):
    """How an engine is started so that it comes nearest to a policy: environment, arguments, files beside the command, what is to be filled in, and
    what the engine does otherwise than was simulated. Scripts are made of it: it names the engine's program, and files by plain names."""

    engine: Literal["vLLM", "SGLang", "llama.cpp"]
    environment: dict[Annotated[str, Field(pattern=r"^(SGLANG|VLLM)_[A-Z0-9_]{1,100}$")], str] = {}
    command: tuple[str, ...]
    files: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,100}\.json$")], str] = {}
    fill_in: tuple[str, ...] = ()
    otherwise: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _starts_the_engine(self) -> Self:
        program = _PROGRAMS[self.engine]
        if self.command[: len(program)] != program:
            raise ValueError(f"a command of {self.engine} begins with {' '.join(program)}")
        return self


class Launch(Record):
    """What to deploy for a policy: one command for each of `replicas` servers."""

    policy: ShortText
    replicas: PositiveInt
    engines: Annotated[tuple[EngineLaunch, ...], Field(min_length=1, max_length=2)]

    @model_validator(mode="after")
    def _one_of_each_engine(self) -> Self:
        distinct("engines", (engine.engine for engine in self.engines))
        return self
