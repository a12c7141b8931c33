"""Numbers of files: each has a unit and bounds that make physical sense, wide enough for the largest fleets and models, and a text or a boolean
is not a number. Products of a few of them stay far below what a float or an int64 holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, Strict
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

LARGEST = 1e15  # of any number
TINY = 1e-100  # what is not 0 and below it is a slip, and what is divided by it would overflow


@dataclass(frozen=True, slots=True)
class Within:
    """Of an int or a float: what it may be, and its unit. A whole number may be written as 2.0 or 1e6, for YAML and other programs write it so."""

    least: float
    most: float
    unit: str = ""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        number: CoreSchema = core_schema.float_schema(strict=True, allow_inf_nan=False)
        if source is int:
            number = core_schema.no_info_before_validator_function(_whole, core_schema.int_schema(strict=True))
        return core_schema.no_info_after_validator_function(self.checked, number)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return handler(schema) | {"minimum": self.least, "maximum": self.most} | ({"unit": self.unit} if self.unit else {})

    def checked(self, value: float) -> float:
        """The value, where it lies inside."""
        if self.least <= value <= self.most and not 0 < abs(value) < TINY:
            return value
        unit = f" {self.unit}" if self.unit else ""
        if self.least == self.most:
            expected = spoken(self.most)
        elif value > self.most:
            expected = "a number below 1" if 0.999 < self.most < 1 else f"a number of at most {spoken(self.most)}{unit}"
        elif value <= 0 < self.least <= 1:
            expected = "a number above 0"
        else:
            expected = f"a number of at least {spoken(max(self.least, TINY if value > 0 else self.least))}{unit}"
        raise PydanticCustomError("out_of_range", "expected {expected}", {"expected": expected, "most": self.most})


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def spoken(number: float) -> str:
    """A number for a sentence: 10,000 or 1e+12."""
    return f"{number:,.0f}" if 1 <= number <= 1e9 and number == int(number) else f"{number:g}"


Flag = Annotated[bool, Strict()]

# time
MOST_SECONDS = 1e8  # three years
Seconds = Annotated[float, Within(0, MOST_SECONDS, "seconds")]
ClockSeconds = Annotated[float, Within(0, 1e10, "seconds")]  # of a clock, which may count from 1970
SomeSeconds = Annotated[float, Within(1e-9, MOST_SECONDS, "seconds")]
StepSeconds = Annotated[float, Within(0, 1000, "seconds")]  # of a step, or of one of its tokens
Hours = Annotated[float, Within(1e-3, 1e6, "hours")]

# what comes, and how fast
Rate = Annotated[float, Within(1e-6, 1e9, "requests per second")]
TokensPerSecond = Annotated[float, Within(1e-3, 1e6, "tokens per second")]
Factor = Annotated[float, Within(1e-6, 1e6)]
Spread = Annotated[float, Within(1e-3, 100)]  # a coefficient of variation
Burstiness = Annotated[float, Within(1e-2, 1e6)]  # shape of a gamma distribution of gaps
Weight = Annotated[float, Within(1e-9, LARGEST)]  # relative to the others
Share = Annotated[float, Within(0, 1)]
InnerShare = Annotated[float, Within(1e-6, 1 - 1e-6)]  # neither 0 nor 1

# how many
MOST_REQUESTS = 50_000_000  # of a run, or of a trace with its repetitions
MOST_USERS = 1_000_000
Requests = Annotated[int, Within(1, MOST_REQUESTS, "requests")]
RequestsOrNone = Annotated[int, Within(0, MOST_REQUESTS, "requests")]
Users = Annotated[int, Within(1, MOST_USERS, "requests at a time")]
Replications = Annotated[int, Within(1, 10_000, "replications")]
Seed = Annotated[int, Within(0, LARGEST)]
Batch = Annotated[int, Within(1, 100_000, "requests")]
MOST_TOKENS = 100_000_000  # of a request: no context is as long
Tokens = Annotated[int, Within(1, MOST_TOKENS, "tokens")]
TokensOrNone = Annotated[int, Within(0, MOST_TOKENS, "tokens")]
KvTokens = Annotated[int, Within(1, 1e12, "tokens")]
ContextTokens = Annotated[int, Within(2, MOST_TOKENS, "tokens")]
PageTokens = Annotated[int, Within(1, 1_000_000, "tokens")]
MeanTokens = Annotated[float, Within(1e-6, 1e8, "tokens")]
MOST_SLOTS = 127  # of a drafted block: files of blocks count in int8
Slots = Annotated[int, Within(0, MOST_SLOTS, "tokens")]
Gamma = Annotated[int, Within(1, MOST_SLOTS, "tokens")]
Lag = Annotated[int, Within(0, 2, "steps")]

# machines
Replicas = Annotated[int, Within(1, 1_000_000, "replicas")]
Workers = Annotated[int, Within(1, 1_000_000, "workers")]
Gpus = Annotated[float, Within(1e-3, 1e6, "GPUs")]
GpusOrNone = Annotated[float, Within(0, 1e6, "GPUs")]
Bytes = Annotated[float, Within(1, 1e16, "bytes")]
BytesOrNone = Annotated[float, Within(0, 1e16, "bytes")]
Bandwidth = Annotated[float, Within(1, 1e16, "bytes per second")]
Money = Annotated[float, Within(1e-6, 1e6, "per GPU-hour")]

# of confidences and sampling
Temperature = Annotated[float, Within(0, 100)]
Calibration = Annotated[float, Within(1e-3, 1000)]
