"""Arguments that a server needs for what its models' configs ask: a response cache, resources."""

from collections.abc import Iterable

from llmopt.triton.model_config import ModelConfig

CACHE_BYTES = 64 << 20


def list_server_arguments(configs: Iterable[ModelConfig]) -> tuple[str, ...]:
    """Lists them, as tritonserver takes them.

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
