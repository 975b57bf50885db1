"""Arguments that a repository's server is started with: here, and by who reads its README."""

from collections.abc import Iterable
from pathlib import Path

from llmopt.artifacts.triton_description import TritonDescription
from llmopt.triton.model_config import ModelConfig, read_config

CACHE_BYTES = 64 << 20
STRICT = "--disable-auto-complete-config"  # configs are taken as they stand


def list_start_arguments(repository: Path, description: TritonDescription) -> tuple[str, ...]:
    """Lists all that a server over a repository needs beside the repository's path.

    Args:
        repository: Its models' configs lie there.
        description: Its own.
    """
    configs = (read_config(repository / model.name) for model in description.models)
    # The vllm backend was not tried here: it is started as its makers say, which is without.
    strict = () if description.shape == "vllm" else (STRICT,)
    return (*strict, *list_config_arguments(configs))


def list_config_arguments(configs: Iterable[ModelConfig]) -> tuple[str, ...]:
    """Lists what configs ask of their server: a response cache, resources.

    Of each resource there is as much as the neediest instance takes, the least that can serve it.
    """
    arguments = []
    needed: dict[str, int] = {}
    has_limiter = has_cache = False
    for config in configs:
        has_cache |= config.response_cache.enable
        for group in config.instance_group:
            has_limiter |= group.HasField("rate_limiter")
            for resource in group.rate_limiter.resources:
                needed[resource.name] = max(needed.get(resource.name, 0), resource.count)
    if has_cache:
        arguments.append(f"--cache-config=local,size={CACHE_BYTES}")
    if has_limiter:
        arguments.append("--rate-limit=execution_count")
    arguments += [f"--rate-limit-resource={name}:{n}" for name, n in sorted(needed.items())]
    return tuple(arguments)
