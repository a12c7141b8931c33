"""`dsim profile check, show, diff`, `dsim fit` and `dsim probe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from simulator.cli.options import Engine, Force, Format, Hardware, Name, NewProfile, Target, show
from simulator.echo import echo

Folder = Annotated[Path, typer.Argument(metavar="PROFILE", help="Folder of the profile.")]


def check(folder: Folder, format: Format = "text") -> None:
    """Load a profile and say what it holds.

    Reads every file that it names and shows where each table came from."""
    from simulator.measurements.profile import load_profile
    from simulator.report.profile.numbers import profile_data
    from simulator.report.profile.page import profile_page

    profile = load_profile(folder)
    show(format, profile_data(profile), profile_page(profile))


def show_page(
    folder: Folder,
    out: Annotated[Path | None, typer.Option(help="Folder for profile.html and overview.png.", show_default="reports/profile-NAME")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files of these names that dsim has not made.")] = False,
    format: Format = "text",
) -> None:
    """Write a profile's page and picture.

    They show step costs, acceptance, calibration and suspicious cells."""
    from simulator.measurements.profile import load_profile
    from simulator.report.profile.numbers import drafter_data, drafter_numbers, profile_data
    from simulator.report.profile.page import default_folder, profile_page, write_profile_page

    profile = load_profile(folder)
    drafters = drafter_numbers(profile)
    page, picture = write_profile_page(profile, drafters, out or default_folder(profile), force)
    data = profile_data(profile) | {"acceptance": {d.name: drafter_data(d) for d in drafters}, "page": str(page), "picture": str(picture)}
    show(format, data, profile_page(profile, drafters), f"written to {page} and {picture}")


def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="Folder of a profile.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Folder of the profile to compare with A.")],
    format: Format = "text",
) -> None:
    """Compare two profiles.

    Compares the machines, cost cells, accepted lengths and temperatures of B with those of A."""
    from simulator.measurements.agreement import compare_profiles
    from simulator.measurements.profile import load_profile
    from simulator.report.profile.diff import diff_page

    data = compare_profiles(load_profile(first), load_profile(second))
    show(format, data, diff_page(data))


def fit(
    telemetry: Annotated[
        Path,
        typer.Argument(
            metavar="TELEMETRY.csv",
            help="CSV with two of the columns concurrency, tps_per_user, throughput_tok_s_gpu; with a column k or policy, points of several lengths.",
        ),
    ],
    out: NewProfile,
    accepted_length: Annotated[
        float | None, typer.Option(help="Of one policy: assumed tokens committed per round, bonus token included; 1 without speculation.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="Of one policy: tokens verified per request and step, anchor included: 2 for MTP-1, 1 without speculation.")
    ] = None,
    name: Name = None,
    hardware: Hardware = "not stated",
    engine: Engine = "not stated",
    target: Target = "not stated",
    gpus_per_replica: Annotated[float, typer.Option(help="GPUs that serve the requests of the concurrency column.")] = 1.0,
    drafter: Annotated[str, typer.Option(help="Name for the drafter in production.")] = "mtp",
    draft_s_per_request: Annotated[float, typer.Option(help="Assumed drafting time per request and round, in seconds.")] = 0.0,
    cliff: Annotated[list[int] | None, typer.Option(metavar="TOKENS", help="Tokens per step above which to fit a jump. Repeatable.")] = None,
    graph_limit: Annotated[
        int | None, typer.Option(metavar="TOKENS", min=1, help="Of several lengths: the largest step in captured graphs; above it steps jump.")
    ] = None,
    lengths_by_k: Annotated[
        str, typer.Option(help="Of several lengths: accepted lengths at k = 1, 2, … from elsewhere, whose level is fitted where nothing was counted.")
    ] = "",
    drafting: Annotated[
        str, typer.Option(help="Of several lengths: block (all slots at once), chain (token after token), lookup (no model) or unknown.")
    ] = "unknown",
    force: Force = False,
    format: Format = "text",
) -> None:
    """Fit a profile to operating points.

    Of one policy, with its accepted length and budget; or of several lengths, told by column k or policy. The profile records what was assumed."""
    from simulator.study.profiles.about import About
    from simulator.study.profiles.telemetry import fit_telemetry

    about = About(out, name, hardware, engine, target, gpus_per_replica, drafter, force)
    result = fit_telemetry(telemetry, about, accepted_length, budget, draft_s_per_request, cliff or [], lengths_by_k, drafting, graph_limit)
    show(format, result, result["text"])


def probe(
    base_url: Annotated[str, typer.Option(help="Base URL of the API, for example http://127.0.0.1:8000/v1.")],
    model: Annotated[str, typer.Option(help="Model name on the server.")],
    out: NewProfile,
    prompts: Annotated[
        Path | None, typer.Option(help="Text file with one prompt per line, or JSON lines with a key 'prompt'.", show_default="built-in prompts")
    ] = None,
    concurrency: Annotated[str, typer.Option(help="Numbers of concurrent users to measure, at least two.")] = "1,2,4,8,16,32",
    check: Annotated[str, typer.Option(help="Numbers of users to measure but leave out of the fit, as a check.")] = "",
    refine: Annotated[int, typer.Option(min=0, help="Concurrency levels to add where neighbouring step times differ by more than 25 %.")] = 0,
    requests: Annotated[int, typer.Option(min=2, help="Measured requests per user.")] = 3,
    output_tokens: Annotated[int, typer.Option(min=2, help="Maximum tokens per answer.")] = 128,
    accepted_length: Annotated[
        float | None, typer.Option(help="Tokens committed per round, bonus token included.", show_default="from the server's metrics, else 1")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="Tokens verified per request and step, anchor included.", show_default="from the server's metrics, else 1")
    ] = None,
    label: Annotated[str, typer.Option(help="What this server is set to, in a word, for example k3. Needed with --add.")] = "",
    add: Annotated[
        Path | None,
        typer.Option(metavar="PROFILE", help="Profile of another probe of this model, whose points join the fit."),
    ] = None,
    drafter: Annotated[str, typer.Option(help="Name for the drafter where the server speculates.")] = "drafter",
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the words that make every prompt a new one.", show_default="another one each time")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat/--completions", help="API to call.")] = True,
    extra: Annotated[str, typer.Option(help="JSON object with more fields for every request.")] = "{}",
    header: Annotated[
        list[str] | None,
        typer.Option(
            metavar="'NAME: VALUE'", help="Header of every request. Repeatable. OPENAI_API_KEY of the environment is sent as a bearer token."
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, max=86400, help="Seconds to the first token, or without data, until a request fails.")] = 300.0,
    answer_timeout: Annotated[float, typer.Option(min=1, max=86400, help="Seconds after which an answer must be whole.")] = 3600.0,
    name: Name = None,
    hardware: Hardware = "not stated",
    engine: Engine = "not stated",
    gpus_per_replica: Annotated[float, typer.Option(help="GPUs that serve the model.")] = 1.0,
    force: Force = False,
    format: Format = "text",
) -> None:
    """Measure a running server and fit a profile to it.

    Works with any OpenAI-compatible server that streams. Simulates the profile at the measured concurrency and shows the difference.
    Two short probes, without and with speculation (--label k3 --add PROFILE), make one profile."""
    import os

    from simulator.cli.options import show_profile
    from simulator.measurements.endpoint import Server
    from simulator.study.profiles.about import About
    from simulator.study.profiles.probe import probe_server
    from simulator.study.profiles.probe_plan import ProbePlan, read_extra, read_headers

    headers = read_headers(header or [], os.environ.get("OPENAI_API_KEY"))
    server = Server(base_url, model, chat, output_tokens, read_extra(extra), timeout, headers, answer_timeout)
    plan = ProbePlan.of(server, prompts, concurrency, check, requests, refine, seed=seed, label=label, drafter=drafter)
    about = About(out, name, hardware, engine, model, gpus_per_replica, drafter, force)
    show_profile(format, probe_server(plan, about, accepted_length, budget, add, lambda line: echo(line, err=True)))
