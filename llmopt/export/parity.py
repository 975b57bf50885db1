"""Holds an exported model in onnxruntime against PyTorch.

The reference takes one row at a time, unpadded, without cache, block by block in float32: padding,
positions, masks and caches of the export are judged by what they must not change.

Shapes: T = tokens of a row, V = vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnxruntime as ort
import torch

from llmopt.artifacts.onnx_description import OnnxDescription
from llmopt.artifacts.tensor_spec import TensorDtype
from llmopt.checkpoint.decoder_block import DecoderBlock
from llmopt.checkpoint.streamed_model import StreamedModel
from llmopt.errors import NumericalError
from llmopt.export.session import Array, OnnxDecoder, pad_left

ROW_LENGTHS = (37, 26, 11)  # none of them traced, two of them padded
CHUNK_TOKENS = (3, 1, 1, 1, 1)  # what is decoded after the prompt, with the cache
SEED = 20
MAX_CROSSED_WINDOW = 1024  # rows past a longer one would take PyTorch longer than the export
# Largest error allowed, over the largest logit; measured on small models: 1e-6, 1e-3.
TOLERANCES: dict[TensorDtype, float] = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-4}


@dataclass(frozen=True)
class Parity:
    """How near an export is to PyTorch.

    Attributes:
        max_abs_error: Largest difference of a logit.
        relative_error: That over the largest logit's magnitude.
        top1_agreement: Share of positions where both have the same largest logit.
        num_positions: How many were compared.
        within_window: Tokens of a sliding window that no row of the comparison went past; None
            where one did, or there is no window.
    """

    max_abs_error: float
    relative_error: float
    top1_agreement: float
    num_positions: int
    within_window: int | None = None

    def require(self, tolerance: float) -> None:
        """Refuses an export that is further from PyTorch than it may be.

        Raises:
            NumericalError: It is, or holds NaN.
        """
        if not self.relative_error <= tolerance:
            raise NumericalError(
                f"the exported model differs from PyTorch: error {self.relative_error:.3g} of the "
                f"largest logit, allowed {tolerance:.3g} (absolute {self.max_abs_error:.3g}, same "
                f"top token at {self.top1_agreement:.1%} of {self.num_positions} positions)",
                remedy="export with dtype: float32, or allow more with tolerance",
            )


def compare(ours: Sequence[Array], references: Sequence[Array]) -> Parity:
    """Compares logits, [positions, V] each."""
    ours_PV, references_PV = np.concatenate(ours), np.concatenate(references)
    error = float(np.abs(ours_PV - references_PV).max())  # NaN stays NaN
    agrees = ours_PV.argmax(-1) == references_PV.argmax(-1)
    return Parity(
        max_abs_error=error,
        relative_error=error / float(np.abs(references_PV).max()),
        top1_agreement=float(agrees.mean()),
        num_positions=len(agrees),
    )


def check_decoder(
    session: ort.InferenceSession, description: OnnxDescription, streamed: StreamedModel
) -> Parity:
    """Compares an exported decoder with PyTorch on random tokens.

    Args:
        session: The export.
        description: Of the export.
        streamed: The checkpoint, computed in float32.
    """
    window = _find_window(streamed)
    rows = _make_rows(description, window)
    references = [logits.numpy() for logits in read_reference_logits(streamed, rows)]
    run = _run_cached if description.kv_cache else _run_plain
    seen = list(run(session, description, rows))
    ours = [logits for _, _, logits in seen]
    parity = compare(ours, [references[row][positions] for row, positions, _ in seen])
    is_within = max(map(len, rows)) <= window < description.max_position_embeddings
    return replace(parity, within_window=window) if is_within else parity


def read_reference_logits(
    streamed: StreamedModel, rows: Sequence[Sequence[int]]
) -> list[torch.Tensor]:
    """Returns each row's logits, float32 [T, V], computed alone and block by block."""
    with torch.inference_mode():
        hidden = list(streamed.embed(torch.tensor([row]) for row in rows))
        longest = max(len(row) for row in rows)
        for index in range(streamed.num_blocks):
            block = DecoderBlock(streamed, index, longest)
            hidden = [block.forward(hidden_1TD) for hidden_1TD in hidden]
        head = streamed.read_head()
        return [head(hidden_1TD)[0] for hidden_1TD in hidden]


def _find_window(streamed: StreamedModel) -> int:
    """Returns the tokens of a sliding window, 0 where no block has one."""
    kinds = getattr(streamed.config, "layer_types", None) or ("sliding_attention",)
    window = getattr(streamed.config, "sliding_window", None) or 0
    return int(window) if "sliding_attention" in kinds else 0


def _make_rows(description: OnnxDescription, window: int) -> list[list[int]]:
    """Draws rows of tokens; longer than a short sliding window, within the model's positions."""
    extra = window if window <= MAX_CROSSED_WINDOW else 0
    later = sum(CHUNK_TOKENS) if description.kv_cache else 0
    room = description.max_position_embeddings - later
    generator = np.random.default_rng(SEED)
    lengths = [max(1, min(length + extra, room)) + later for length in ROW_LENGTHS]
    return [generator.integers(0, description.vocab_size, n).tolist() for n in lengths]


def _run_plain(
    session: ort.InferenceSession, description: OnnxDescription, rows: list[list[int]]
) -> Iterator[tuple[int, slice, Array]]:
    """Yields (row, its positions, logits) for one padded batch."""
    ids_BT, mask_BT = pad_left(rows)
    logits_BTV = np.asarray(
        session.run(["logits"], {"input_ids": ids_BT, "attention_mask": mask_BT})[0], np.float32
    )
    for index, row in enumerate(rows):
        num_kept = 1 if description.last_token_logits else len(row)
        positions = slice(len(row) - num_kept, len(row))
        yield index, positions, logits_BTV[index, -num_kept:]


def _run_cached(
    session: ort.InferenceSession, description: OnnxDescription, rows: list[list[int]]
) -> Iterator[tuple[int, slice, Array]]:
    """Yields (row, its positions, logits) for padded prompts and then for chunks after them."""
    decoder = OnnxDecoder(session, description)
    decoder.start(len(rows))
    later = sum(CHUNK_TOKENS)
    ids_BT, mask_BT = pad_left([row[:-later] for row in rows])
    ends = [len(row) - later for row in rows]
    counts = list(ends)
    for chunk in (0, *CHUNK_TOKENS):
        if chunk:
            taken = [row[end : end + chunk] for row, end in zip(rows, ends, strict=True)]
            ids_BT, mask_BT = np.array(taken, np.int64), np.ones((len(rows), chunk), np.int64)
            ends = [end + chunk for end in ends]
            counts = [chunk] * len(rows)
        logits_BTV = decoder.forward(ids_BT, mask_BT)
        for index, (end, count) in enumerate(zip(ends, counts, strict=True)):
            num_kept = 1 if description.last_token_logits else count
            yield index, slice(end - num_kept, end), logits_BTV[index, -num_kept:]
