"""The try of `package.triton`: the real server against the exported model, run directly."""

from pathlib import Path

from tokenizers import Tokenizer

from llmopt.artifacts.onnx_session import open_session
from llmopt.artifacts.triton_description import TritonDescription
from llmopt.data.tokenization import load_tokenizer
from llmopt.errors import IncompatibleError
from llmopt.export.session import OnnxDecoder
from llmopt.steps.base import Outcome, RunContext, StepInputs
from llmopt.steps.ensemble_answer import answer_directly
from llmopt.steps.package_run import locate_tokenizer, make_plan
from llmopt.steps.package_triton import PackageTriton
from llmopt.triton.generate_model import read_eos_tokens
from llmopt.triton.served_repository import TrialOptions, check_servable_here, describe_trial
from llmopt.triton.smoke import SmokeReport, smoke_repository
from llmopt.triton.smoke_answers import Expected

NUM_TOKENS = 16
LOG_NAME = "server.log"


def try_repository(
    step: PackageTriton,
    folder: Path,
    description: TritonDescription,
    inputs: StepInputs,
    context: RunContext,
) -> Outcome:
    """Starts the server over what was written into a folder, asks it, and compares.

    Raises:
        CapabilityError: No server is here, or it can't run this repository.
        InputError: The server refused the repository or the request.
        NumericalError: Its answers are not those of the export.
    """
    options = TrialOptions(context.scratch_folder / LOG_NAME)
    check_servable_here(description)
    if step.shape == "generate":
        expected = expect_text(description, inputs, step.threads)
    else:
        expected = expect_outputs(step, inputs, description.prompt)
    report = smoke_repository(folder, description, expected, options, context.progress.note)
    return _make_outcome(report)


def _make_outcome(report: SmokeReport) -> Outcome:
    answer = report.answer
    timings = {"load_s": report.load_s, "answer_s": answer.whole_s}
    if answer.first_response_s is not None:
        timings["first_response_s"] = answer.first_response_s
    return Outcome(
        metrics={
            "answer": answer.text,
            "answered_by_release": report.server_release,
            "answer_checked": list(answer.checked),
        },
        timings={name: round(seconds, 3) for name, seconds in timings.items()},
        degraded=describe_trial(report.overridden, report.stand_ins),
    )


def expect_text(
    description: TritonDescription, inputs: StepInputs, threads: int | None
) -> Expected:
    """Decodes the prompt greedily by the export itself."""
    assert description.model is not None
    tokenizer_folder = locate_tokenizer(inputs)
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    tokenizer.no_padding()  # what a tokenizer.json says of both is not for serving
    tokenizer.no_truncation()
    session = open_session(inputs["model"].path, description.model, threads)
    prompt = tokenizer.encode(description.prompt).ids
    (tokens,) = OnnxDecoder(session, description.model).generate([prompt], NUM_TOKENS)
    ends = [tokens.index(eos) for eos in read_eos_tokens(tokenizer_folder) if eos in tokens]
    return Expected(text=tokenizer.decode(tokens[: min(ends, default=None)]), max_tokens=NUM_TOKENS)


def expect_outputs(step: PackageTriton, inputs: StepInputs, prompt: str) -> Expected:
    """Runs the prompt through the export itself, padded to the same bucket.

    Raises:
        IncompatibleError: No bucket holds the prompt.
    """
    plan = make_plan(step, inputs)
    num_tokens = len(load_tokenizer(plan.tokenizer)(prompt).input_ids)
    if num_tokens > plan.grid[-1]:
        raise IncompatibleError(
            f"smoke asks with a prompt of {num_tokens} tokens; the largest bucket has "
            f"{plan.grid[-1]}",
            remedy=f"add a bucket of {num_tokens} or more, or leave smoke out",
        )
    return Expected(outputs=answer_directly(plan, prompt))
