"""What cannot be estimated, and is refused: kernels of another engine that are not known to be the same, formulas where a kernel should have been
measured, and models whose numbers are known to be wrong."""

from __future__ import annotations

import re
from typing import Any

from simulator.errors import DsimError
from simulator.measurements.profile import load_profile
from simulator.study.estimate.operators import Operator, Operators
from simulator.study.estimate.package import Deployment, facts_of, handle, low_fidelity_tables, own_handle

_MEASURED = re.compile(r"Gemm|Attention|Moe$|Mla|Dsa|Msa|Gdn|Kda|Mamba|Dsv4")  # kinds of operators that are kernels, not formulas
_TABLES = {"mla": re.compile(r"Mla"), "dsa": re.compile(r"Dsa"), "msa": re.compile(r"Msa"), "dsv4": re.compile(r"Dsv4")}
_AT = ({"batch_size": 1, "s": 4096}, {"batch_size": 64, "s": 4096})
V4, V4_PROFILE = "DeepseekV4ForCausalLM", "deepseek-v4-flash-0731-b300"
V4_MODEL, V4_SYSTEM, V4_OTHERS = "deepseek-ai/DeepSeek-V4-Flash", "b300_sxm", "deepseek-v4-flash-0731-b300, deepseek-v4-pro-0813-b300"
_V4_TOKENS, _V4_DRAFTED, _V4_FACTOR = (1, 8, 32, 128, 512, 1024), 8, 1.5  # tokens of a step, of a request in it, and how far prices may be off


def check_sources(operators: Operators) -> None:
    """Raises DsimError where a kernel was priced by a formula: the package has not measured it."""
    for op in (*operators.generation, *operators.context):
        source = operators.sources.get(op.name, "silicon")
        if _MEASURED.search(op.kind) and source in ("sol", "empirical"):
            problem = f"'{op.name}' was not measured on {operators.of.system} under {op.engine}: the package has a formula for it ({source})"
            raise DsimError(problem, where=operators.of.model, remedy="`dsim estimate --list` shows other systems and engines")


def check_kernels(operators: Operators) -> None:
    """Raises DsimError where an operator is priced from another engine's rows of a kernel that the package does not know (it calls them
    low-fidelity; they are 30 to 90 % apart between engines)."""
    of = operators.of
    asked = [(op, False) for op in operators.generation] + [(op, True) for op in operators.context]
    asked = [(op, context) for op, context in asked if op.engine == of.engine and any(kinds.search(op.kind) for kinds in _TABLES.values())]
    unsure = low_fidelity_tables(of) if asked else ()
    own = own_handle(of) if unsure else None
    for op, is_context in asked if unsure else ():
        if any(name in table and kinds.search(op.kind) for table in unsure for name, kinds in _TABLES.items()) and not _same(op, of, own, is_context):
            problem = f"'{op.name}' would be priced from another engine's kernel of low fidelity: {of.engine} was not measured with it"
            raise DsimError(problem, where=f"{of.model} on {of.system}", remedy="use another --engine, or another parallelism")


def _same(op: Operator, of: Deployment, own: Any, is_context: bool) -> bool:
    """Do the engine's own tables give the price that all tables give?"""
    for asked in _AT:
        try:
            alone = own.evaluate_ops_json(op.wire, is_context=is_context, **asked)[0][1]
        except Exception:  # the compiled package's own kinds
            return False
        if alone != handle(of.system, op.engine).evaluate_ops_json(op.wire, is_context=is_context, **asked)[0][1]:
            return False
    return True


def check_v4(of: Deployment) -> str:
    """DeepSeek-V4 against vLLM's own profile of Flash on B300, in proportion to the memory's bandwidth elsewhere; how far it is off, in words.

    Raises DsimError where it is by more than half. So a release of the package that is wrong again is refused again.
    """
    published = load_profile(V4_PROFILE).costs.verify
    asked = Deployment(V4_MODEL, of.system, of.engine, tp=4)
    speed = facts_of(Deployment(V4_MODEL, V4_SYSTEM, "vllm")).bandwidth / facts_of(asked).bandwidth
    try:
        operators = Operators(asked)
    except DsimError as error:
        raise DsimError(error.problem, where=error.where, remedy=f"use a published profile: {V4_OTHERS}") from None
    off = []
    for tokens in _V4_TOKENS:
        requests = max(tokens // _V4_DRAFTED, 1)
        step = operators.tokens_s(tokens) + operators.attention_s(requests, 1024)
        off.append(step / (float(published.seconds(tokens, requests, 1024)) * speed))
    said = f"steps of DeepSeek-V4-Flash at TP 4 come out {min(off):.2f} to {max(off):.2f} times those of vLLM's own profile on B300"
    if max(off) > _V4_FACTOR or min(off) < 1 / _V4_FACTOR:
        raise DsimError(f"cannot be estimated: {said}", where=f"{of.model} on {of.system}", remedy=f"use a published profile: {V4_OTHERS}")
    return said + (", in proportion to memory bandwidth" if of.system != V4_SYSTEM else "")
