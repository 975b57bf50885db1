"""The try of `package.triton`: the real server against the exported model, run directly.

Shapes: T = tokens with padding, V = vocabulary, H = hidden size.
"""

import numpy as np
from tokenizers import Tokenizer

from llmopt.artifacts.onnx_description import OnnxDescription
from llmopt.artifacts.triton_description import TritonDescription
from llmopt.data.tokenization import load_tokenizer
from llmopt.errors import IncompatibleError
from llmopt.export.session import Array, OnnxDecoder, open_session, run_named
from llmopt.steps.base import Outcome, RunContext, StepInputs
from llmopt.steps.package_run import locate_tokenizer
from llmopt.steps.package_triton import PackageTriton
from llmopt.triton.ensemble_repository import EnsemblePlan
from llmopt.triton.generate_model import read_eos_tokens
from llmopt.triton.served_repository import ServingOptions, check_servable_here, describe_stand_ins
from llmopt.triton.smoke import SmokeReport, smoke_repository
from llmopt.triton.smoke_answers import Expected

NUM_TOKENS = 16
LOG_NAME = "server.log"


def try_repository(
    step: PackageTriton, description: TritonDescription, inputs: StepInputs, context: RunContext
) -> Outcome:
    """Starts the server over what was written, asks it, and compares.

    Raises:
        CapabilityError: No server is here, or it can't run this repository.
        InputError: The server refused the repository or the request.
        NumericalError: Its answers are not those of the export.
    """
    folder = context.work_folder
    context.scratch_folder.mkdir(exist_ok=True)
    options = ServingOptions(context.scratch_folder / LOG_NAME)
    check_servable_here(description, on_cpu=options.on_cpu)
    expect = expect_text if step.shape == "generate" else expect_outputs
    expected = expect(description, inputs, step.threads)
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
        degraded=describe_stand_ins(report.stand_ins),
    )


def expect_text(
    description: TritonDescription, inputs: StepInputs, threads: int | None
) -> Expected:
    """Decodes the prompt greedily by the export itself."""
    assert description.model is not None
    tokenizer_folder = locate_tokenizer(inputs)
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    session = open_session(inputs["model"].path, description.model, threads)
    prompt = tokenizer.encode(description.prompt).ids
    (tokens,) = OnnxDecoder(session, description.model).generate([prompt], NUM_TOKENS)
    ends = [tokens.index(eos) for eos in read_eos_tokens(tokenizer_folder) if eos in tokens]
    return Expected(text=tokenizer.decode(tokens[: min(ends, default=None)]), max_tokens=NUM_TOKENS)


def expect_outputs(
    description: TritonDescription, inputs: StepInputs, threads: int | None
) -> Expected:
    """Runs the prompt through the export itself, padded to the same bucket.

    Raises:
        IncompatibleError: No bucket holds the prompt.
    """
    model = description.model
    assert model is not None
    tokenizer = load_tokenizer(locate_tokenizer(inputs))
    ids: list[int] = tokenizer(description.prompt).input_ids
    bucket = next((size for size in description.buckets if size >= len(ids)), None)
    if bucket is None:
        raise IncompatibleError(
            f"smoke asks with a prompt of {len(ids)} tokens; the largest bucket has "
            f"{description.buckets[-1]}",
            remedy=f"add a bucket of {len(ids)} or more, or leave smoke out",
        )
    feeds = _make_feeds(model, ids, bucket, tokenizer.mask_token_id)
    session = open_session(inputs["model"].path, model, threads)
    output = run_named(session, feeds, model.outputs[0].name)
    if description.task == "embed":
        return Expected(outputs={"embedding": _pool(output[0], feeds["attention_mask"][0])})
    likeliest = np.argsort(-output.ravel(), kind="stable")[: EnsemblePlan.num_tokens]
    return Expected(outputs={"token_ids": likeliest.astype(np.int64)})


def _make_feeds(
    model: OnnxDescription, ids: list[int], bucket: int, mask_id: int | None
) -> dict[str, Array]:
    """Returns the export's inputs for one row; decoders are padded on the left."""
    padding = [0] * (bucket - len(ids))
    is_left = model.task == "generate"
    row, mask = ids + padding, [1] * len(ids) + padding
    if is_left:
        row, mask = padding + ids, padding + [1] * len(ids)
    feeds = {
        "input_ids": np.array([row], np.int64),
        "attention_mask": np.array([mask], np.int64),
        "token_type_ids": np.zeros((1, bucket), np.int64),
    }
    if mask_id in row:
        feeds["masked_positions"] = np.array([row.index(mask_id)], np.int64)
    names = {spec.name for spec in model.inputs}
    return {name: array for name, array in feeds.items() if name in names}


def _pool(hidden_TH: Array, mask_T: Array) -> Array:
    """Returns the mean over the tokens at length 1."""
    mean_H = hidden_TH[mask_T == 1].mean(0)
    pooled_H: Array = mean_H / np.linalg.norm(mean_H)
    return pooled_H
