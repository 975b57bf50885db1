"""`run`, `plan`, `validate`, `schema`: recipes."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from llmopt.artifacts.files import format_bytes
from llmopt.cli import options as opt
from llmopt.cli.console import listen, print_data, print_json, print_line
from llmopt.cli.summary import summarise_run
from llmopt.errors import EXIT_DEFERRED, LlmoptError
from llmopt.recipe.execute import RunSettings, run_plan
from llmopt.recipe.inputs import validate_recipe
from llmopt.recipe.loader import load_recipe
from llmopt.recipe.plan import (
    Plan,
    PlannedStep,
    RunOptions,
    check_plan,
    download_sources,
    make_plan,
)
from llmopt.recipe.schema import build_schema
from llmopt.steps.base import Estimate


def run(
    recipe: opt.RecipeArgument,
    variant: opt.VariantOption = None,
    overrides: opt.SetOption = None,
    until: opt.UntilOption = None,
    start: opt.FromOption = None,
    force: opt.ForceOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines of events.")] = False,
    detailed_exitcode: Annotated[
        bool, typer.Option("--detailed-exitcode", help="Exit with 10 if a step was deferred.")
    ] = False,
    store: opt.StoreOption = None,
    device: opt.DeviceOption = "auto",
    threads: opt.ThreadsOption = None,
    quiet: opt.QuietOption = False,
) -> None:
    """Run a recipe: only what is not already in the store."""
    loaded = load_recipe(recipe, variant, overrides or ())
    options = RunOptions(until, start, tuple(force or ()))
    opened = opt.open_store(store)
    plan = make_plan(loaded, opened, opt.OUTPUT_ROOT, options)
    if download_sources(plan, opened, print_line):
        plan = make_plan(loaded, opened, opt.OUTPUT_ROOT, options)
    settings = RunSettings(device, threads, opt.OUTPUT_ROOT)
    with listen(quiet=quiet, as_json=as_json) as listener:
        listener.event("run_started", recipe=loaded.recipe.name, steps=[s.name for s in plan.steps])
        try:
            result = run_plan(plan, opened, opened, settings, listener)
        except LlmoptError as error:
            listener.event(
                "run_failed", error=error.title, message=str(error), exit_code=error.exit_code
            )
            raise
        listener.event("run_finished", deferred=result.has_deferred)
    if not as_json and not quiet:
        steps = loaded.recipe.steps
        print_data(summarise_run(result, opt.OUTPUT_ROOT / loaded.recipe.name, steps))
    if detailed_exitcode and result.has_deferred:
        raise typer.Exit(EXIT_DEFERRED)


def plan(
    recipe: opt.RecipeArgument,
    variant: opt.VariantOption = None,
    overrides: opt.SetOption = None,
    until: opt.UntilOption = None,
    start: opt.FromOption = None,
    force: opt.ForceOption = None,
    as_json: opt.JsonOption = False,
    store: opt.StoreOption = None,
) -> None:
    """Show what would run and why, with rough needs; run nothing."""
    from llmopt.recipe.machine import free_ram_bytes, measure_flops_per_s  # noqa: PLC0415 - numpy

    loaded = load_recipe(recipe, variant, overrides or ())
    options = RunOptions(until, start, tuple(force or ()))
    opened = opt.open_store(store)
    made = make_plan(loaded, opened, opt.OUTPUT_ROOT, options)
    check_plan(made)
    flops_per_s = measure_flops_per_s()
    if as_json:
        print_json({"recipe": loaded.recipe.name, "steps": _plan_rows(made, flops_per_s)})
        return
    for step in made.steps:
        print_data(_describe_step(step, flops_per_s))
    free = shutil.disk_usage(opened.root if opened.root.exists() else Path()).free
    print_data(
        f"this machine: {format_bytes(free_ram_bytes())} RAM and {format_bytes(free)} disk free"
    )


def _describe_step(step: PlannedStep, flops_per_s: float) -> str:
    mark = "✓ cached  " if step.state == "cached" else "• will run"
    text = f"{mark} {step.name} ({step.step.type_name}): {step.reason}"
    if step.gates:
        text += f"\n    waits for {', '.join(step.gates)}"
    if step.state == "run":
        text += f"\n    {_describe_needs(step.estimate, flops_per_s)}"
    return text


def _describe_needs(estimate: Estimate | None, flops_per_s: float) -> str:
    if estimate is None:
        return "memory, disk and time not known"
    text = f"about {format_bytes(estimate.ram_bytes)} RAM"
    if estimate.disk_bytes:
        text += f", {format_bytes(estimate.disk_bytes)} disk"
    if not estimate.flops:
        return f"{text}; time not known"
    seconds = estimate.flops / flops_per_s
    duration = "less than 1 s" if seconds < 1 else f"{seconds:.0f} s"
    return f"{text}, {duration} of arithmetic on this CPU (rough)"


def _plan_rows(made: Plan, flops_per_s: float) -> list[dict[str, object]]:
    return [
        {
            "step": step.name,
            "uses": step.step.type_name,
            "state": step.state,
            "reason": step.reason,
            "identity": step.identity,
            "waits_for": list(step.gates),
            "estimate": None
            if step.estimate is None
            else {
                "ram_bytes": step.estimate.ram_bytes,
                "disk_bytes": step.estimate.disk_bytes,
                "seconds": float(f"{step.estimate.flops / flops_per_s:.2g}")
                if step.estimate.flops
                else None,
            },
        }
        for step in made.steps
    ]


def validate(
    recipes: Annotated[list[Path], typer.Argument(metavar="RECIPE...", help="Recipe files.")],
    variant: opt.VariantOption = None,
    overrides: opt.SetOption = None,
    quiet: opt.QuietOption = False,
) -> None:
    """Check recipes: syntax, references, files, and whether the target could serve."""
    for path in recipes:
        loaded = load_recipe(path, variant, overrides or ())
        validate_recipe(loaded)
        variants = [] if variant is not None else list(loaded.recipe.variants)
        for name in variants:
            try:
                validate_recipe(load_recipe(path, name, overrides or ()))
            except LlmoptError as error:
                message = f"variant {name}: {error.message}"
                raise type(error)(message, remedy=error.remedy) from None
        if not quiet:
            also = f", variants {', '.join(variants)}" if variants else ""
            print_line(f"{path}: valid ({len(loaded.recipe.steps)} steps{also})")


def schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    print_json(build_schema())
