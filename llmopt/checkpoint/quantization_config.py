"""Reads the `quantization_config` of every quantised format llmopt knows; no torch."""

from collections.abc import Callable, Mapping
from typing import Any

from llmopt.checkpoint.autoround_config import parse_autoround_config
from llmopt.checkpoint.bitsandbytes_config import parse_bitsandbytes_config
from llmopt.checkpoint.compressed_tensors_config import parse_compressed_tensors_config
from llmopt.checkpoint.gptq_config import parse_gptq_config
from llmopt.checkpoint.stored_quantization import StoredQuantization
from llmopt.errors import InputError

PARSERS: dict[str, Callable[[Mapping[str, Any]], StoredQuantization]] = {
    "gptq": parse_gptq_config,
    "auto-round": parse_autoround_config,
    "compressed-tensors": parse_compressed_tensors_config,
    "bitsandbytes": parse_bitsandbytes_config,
}


def parse_quantization_config(config: Mapping[str, Any]) -> StoredQuantization:
    """Reads a `quantization_config`.

    Raises:
        InputError: A method, version or scheme that llmopt does not read.
    """
    method = config.get("quant_method")
    parser = PARSERS.get(method) if isinstance(method, str) else None
    if parser is None:
        known = ", ".join(repr(name) for name in PARSERS)
        raise InputError(f"the checkpoint is quantised by {method!r}; llmopt reads {known}")
    return parser(config)
