"""What an ensemble is to answer: the export in onnxruntime, without a server.

Tokenizer and session are reached apart from the served code; `choose_bucket`, `find_masks`,
`pad_rows`, `pool_mean` and `rank_tokens` are the served code itself, so that a fault of theirs
shows in the tests of `llmopt.triton.runtime.ensemble`, not in this comparison.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmopt.artifacts.onnx_description import MODEL_NAME
from llmopt.artifacts.onnx_session import open_session
from llmopt.export.session import run_named
from llmopt.triton.ensemble_repository import EnsemblePlan
from llmopt.triton.ensemble_tokenizer import EnsembleTokenizer
from llmopt.triton.runtime.ensemble.postprocessing import pool_mean, rank_tokens
from llmopt.triton.runtime.ensemble.rows import choose_bucket, find_masks, pad_rows

Array = NDArray[Any]


def answer_directly(plan: EnsemblePlan, text: str) -> dict[str, Array]:
    """Answers one text as the ensemble does: transformers' tokenizer, the export, the same bucket.

    The bucket is part of the answer for int8 exports, which round a whole tensor at a time.

    Args:
        plan: Of an ensemble whose engine is an export.
        text: One that fits the buckets, with a mask where the task fills one.

    Returns:
        Outputs by name, with a batch of 1; texts are bytes.

    Raises:
        InputError: Tokenizer or export can't be loaded.
    """
    assert plan.engine is None, f"only a GPU runs an engine; an export is {MODEL_NAME}"
    tokenizer = EnsembleTokenizer.open(plan.tokenizer)
    rows = [tokenizer.tokenizer(text).input_ids]
    ids_1T, mask_1T = pad_rows(
        rows, choose_bucket(rows, plan.grid), tokenizer.pad_id, is_left=plan.task == "score"
    )
    feeds = {
        "input_ids": ids_1T,
        "attention_mask": mask_1T,
        "token_type_ids": np.zeros_like(ids_1T),
    }
    if plan.task == "fill_mask":
        feeds["masked_positions"] = find_masks(ids_1T, tokenizer.mask_id, tokenizer.mask_token)[
            :, 0
        ]
    wanted = {spec.name for spec in plan.model.inputs}
    session = open_session(plan.source, plan.model, plan.threads)
    output = run_named(
        session,
        {name: array for name, array in feeds.items() if name in wanted},
        plan.model.outputs[0].name,
    )
    if plan.task == "embed":
        return {"embedding": pool_mean(output, mask_1T)}
    ids_1K, logprobs_1K = rank_tokens(output.reshape(1, -1), plan.num_answer_tokens)
    texts = tokenizer.list_texts(plan.model.vocab_size)
    tokens_1K = np.array([[texts[token].encode() for token in ids_1K[0]]], object)
    return {
        "text_output": tokens_1K[:, :1],
        "tokens": tokens_1K,
        "token_ids": ids_1K,
        "logprobs": logprobs_1K,
    }
