"""What a server would have to load of a checkpoint that is there: the words of `served_weights`."""

from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.stored_quantization import ChannelLayer, LayerStorage, StoredLayer
from llmopt.serving.served_weights import (
    ServedFormat,
    ServedLayer,
    ServedWeights,
    Storage,
    all_layers,
    describe_plain,
)

FORMATS: dict[str, ServedFormat] = {
    "gptq": "gptq",
    "auto-round": "gptq",
    "compressed-tensors": "compressed-tensors",
    "bitsandbytes": "bitsandbytes",
}


def describe_checkpoint(checkpoint: Checkpoint) -> ServedWeights:
    """Describes a checkpoint, quantised or not, as a server finds it."""
    stored = checkpoint.quantization
    if stored is None:
        return describe_plain(checkpoint.config)
    sizes = _measure_layers(checkpoint)
    layers = tuple(
        _describe_layer(name, shape_OI, stored.find_layer(name), sizes)
        for name, shape_OI in all_layers(checkpoint.config)
    )
    return ServedWeights(checkpoint.config, FORMATS[stored.method], layers)


def _measure_layers(checkpoint: Checkpoint) -> dict[str, int]:
    """Returns the bytes of the tensors under each layer's name."""
    names = {name for name, _ in all_layers(checkpoint.config)}
    sizes = dict.fromkeys(names, 0)
    for tensor, entry in checkpoint.tensors.items():
        parent = tensor
        while parent and parent not in names:
            parent = parent.rpartition(".")[0]
        if parent:
            sizes[parent] += entry.num_bytes
    return sizes


def _describe_layer(
    name: str, shape_OI: tuple[int, int], layer: LayerStorage | None, sizes: dict[str, int]
) -> ServedLayer:
    scheme = layer.scheme if isinstance(layer, StoredLayer) else None
    return ServedLayer(name, shape_OI, _name_storage(layer), scheme, sizes[name])


def _name_storage(layer: LayerStorage | None) -> Storage:
    if layer is None:
        return "plain"
    if isinstance(layer, StoredLayer):
        return "integer"
    if isinstance(layer, ChannelLayer):
        return "int8" if layer.format == "int-quantized" else "fp8"
    return "nf4"
