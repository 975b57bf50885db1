"""Mistakes in how requests are batched and where instances run."""

from tests.triton.mistakes.planting import Mistake, add_field, in_config

GROUP = "instance_group [ { count: 1 kind: KIND_CPU } ]"
BATCHING = "dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 1000 }"

SCHEDULE_MISTAKES = (
    Mistake(
        "a preferred batch above max_batch_size",
        "words",
        (in_config("scorer", "[ 4, 8 ]", "[ 4, 16 ]"),),
        "preferred_batch_size is [4, 16]; 1 to max_batch_size 8 is allowed",
    ),
    Mistake(
        "a preferred batch of 0",
        "words",
        (in_config("scorer", "[ 4, 8 ]", "[ 0, 8 ]"),),
        "preferred_batch_size is [0, 8]; 1 to max_batch_size 8 is allowed",
    ),
    Mistake(
        "dynamic batching without a batch axis",
        "story",
        (add_field("story", "dynamic_batching { max_queue_delay_microseconds: 100 }"),),
        "dynamic_batching is set; max_batch_size 0 has no batch axis",
    ),
    Mistake(
        "dynamic batching of an ensemble",
        "words",
        (add_field("words", "dynamic_batching { max_queue_delay_microseconds: 100 }"),),
        "words/config.pbtxt is no model config",
    ),
    Mistake(
        "both kinds of batching",
        "words",
        (add_field("scorer", "sequence_batching { }"),),
        "is no model config",
    ),
    Mistake(
        "priority levels without a default",
        "words",
        (in_config("scorer", BATCHING, "dynamic_batching { priority_levels: 2 }"),),
        "default_priority_level is 0; 1 to priority_levels 2 is allowed",
    ),
    Mistake(
        "a queue policy for a level that is not there",
        "words",
        (
            in_config(
                "scorer",
                BATCHING,
                "dynamic_batching { priority_levels: 2 default_priority_level: 1 "
                "priority_queue_policy { key: 3 value { max_queue_size: 4 } } }",
            ),
        ),
        "priority_queue_policy names level 3; 1 to priority_levels 2 is allowed",
    ),
    Mistake(
        "an instance count of 0",
        "words",
        (in_config("scorer", GROUP, "instance_group [ { count: 0 kind: KIND_CPU } ]"),),
        "instance_group[0].count is not set, or 0",
    ),
    Mistake(
        "a negative instance count",
        "words",
        (in_config("scorer", GROUP, "instance_group [ { count: -1 kind: KIND_CPU } ]"),),
        "instance_group[0].count is -1",
    ),
    Mistake(
        "GPUs of an instance on the CPU",
        "words",
        (in_config("scorer", GROUP, "instance_group [ { count: 1 kind: KIND_CPU gpus: [ 0 ] } ]"),),
        "instance_group[0].gpus is [0] with KIND_CPU",
    ),
    Mistake(
        "a negative GPU",
        "words",
        (
            in_config(
                "scorer", GROUP, "instance_group [ { count: 1 kind: KIND_GPU gpus: [ -1 ] } ]"
            ),
        ),
        "instance_group[0].gpus is [-1]; 0 or more",
    ),
    Mistake(
        "instances of an ensemble",
        "words",
        (add_field("words", GROUP),),
        "words/config.pbtxt: instance_group is set; an ensemble has no instances",
    ),
    Mistake(
        "cached answers of a decoupled model",
        "story",
        (add_field("story", "response_cache { enable: true }"),),
        "response_cache.enable is true; answers of a decoupled model are not cached",
    ),
    Mistake(
        "an engine on the CPU",
        "engine",
        (in_config("engine", "KIND_GPU", "KIND_CPU"),),
        "instance_group[0].kind is KIND_CPU; engines run on GPUs alone",
    ),
    Mistake(
        "vLLM with a batch size",
        "llm",
        (in_config("llm", "max_batch_size: 0", "max_batch_size: 8"),),
        "max_batch_size is 8; vllm takes 0",
    ),
    Mistake(
        "vLLM with dynamic batching",
        "llm",
        (
            in_config("llm", "max_batch_size: 0", "max_batch_size: 8"),
            add_field("llm", "dynamic_batching { }"),
        ),
        "dynamic_batching is set; backend vllm batches by itself",
    ),
    Mistake(
        "vLLM in an instance of KIND_GPU",
        "llm",
        (in_config("llm", "KIND_MODEL", "KIND_GPU"),),
        "instance_group.kind is KIND_GPU; vllm places itself by KIND_MODEL",
    ),
    Mistake(
        "vLLM that is not decoupled",
        "llm",
        (in_config("llm", "decoupled: true", "decoupled: false"),),
        "model_transaction_policy.decoupled is false; streamed answers need",
    ),
)
