"""Mistakes in settings.json and what it names, of llmopt's ensembles."""

from tests.triton.mistakes.planting import (
    Mistake,
    describe,
    drop_json,
    remove,
    replace,
    set_json,
    write,
)

TOKENIZER = "ranker_tokenizer/1/settings.json"
POSTPROCESSOR = "ranker_postprocessor/1/settings.json"

SETTING_MISTAKES = (
    Mistake(
        "buckets of the tokenizer that were not planned",
        "encoder",
        (replace("tokenizer/1/settings.json", "[4, 8]", "[6]"),),
        "tokenizer/1/settings.json: buckets is [6]; triton.json says [4, 8]",
    ),
    Mistake(
        "a tokenizer's output that the config does not have",
        "encoder",
        (replace("tokenizer/1/settings.json", '"attention_mask"', '"token_type_ids"'),),
        "outputs is ['input_ids', 'token_type_ids']; config.pbtxt says",
    ),
    Mistake(
        "no file of the tokenizer",
        "encoder",
        (remove("tokenizer/1/tokenizer.json"),),
        'tokenizer/1/settings.json: tokenizer is "tokenizer.json"; a file or folder of 1/',
    ),
    Mistake(
        "fewer texts than tokens",
        "encoder",
        (write("postprocessor/1/tokens.json", '["zero"]'),),
        "postprocessor/1/tokens.json has 1 texts; the model's 8 tokens have one each",
    ),
    Mistake(
        "a postprocessor for another task",
        "encoder",
        (replace("postprocessor/1/settings.json", "fill_mask", "embed"),),
        'postprocessor/1/settings.json: task is "embed"; triton.json says "fill_mask"',
    ),
    Mistake(
        "no settings of the tokenizer",
        "ranker",
        (remove(TOKENIZER),),
        "ranker_tokenizer/1/settings.json is missing; a JSON object is needed",
    ),
    Mistake(
        "outputs of null",
        "ranker",
        (set_json(TOKENIZER, outputs=None),),
        "ranker_tokenizer/1/settings.json: outputs is null; a valid array is allowed",
    ),
    Mistake(
        "outputs that are no names",
        "ranker",
        (set_json(TOKENIZER, outputs=["input_ids", 1]),),
        "ranker_tokenizer/1/settings.json: outputs.1 is 1; a valid string is allowed",
    ),
    Mistake(
        "padding on the other side",
        "ranker",
        (set_json(TOKENIZER, padding_side="right"),),
        'settings.json: padding_side is "right"; task score of triton.json takes "left"',
    ),
    Mistake(
        "no token for the padding",
        "ranker",
        (drop_json(TOKENIZER, "pad_id"),),
        "ranker_tokenizer/1/settings.json: pad_id is missing; the model's code reads it",
    ),
    Mistake(
        "padding that is no token of the model",
        "ranker",
        (set_json(TOKENIZER, pad_id=8),),
        "settings.json: pad_id is 8; tokens below the model's vocab_size 8 are allowed",
    ),
    Mistake(
        "a mask for a task without one",
        "ranker",
        (set_json(TOKENIZER, mask_id=7),),
        "settings.json: mask_id is 7; only task fill_mask has one: null",
    ),
    Mistake(
        "a mask that the tokenizer does not have",
        "encoder",
        (replace("tokenizer/1/settings.json", '"mask_id": 7', '"mask_id": 6'),),
        "tokenizer/1/settings.json: mask_id is 6; tokenizer.json has 7 for [MASK]",
    ),
    Mistake(
        "no mask for the task that fills it",
        "encoder",
        (replace("tokenizer/1/settings.json", '"mask_id": 7', '"mask_id": null'),),
        "tokenizer/1/settings.json: mask_id is null; task fill_mask looks for it",
    ),
    Mistake(
        "an ensemble's tokenizer that does not load",
        "ranker",
        (write("ranker_tokenizer/1/tokenizer.json", "{}"),),
        "ranker_tokenizer/1/tokenizer.json is no tokenizer (",
    ),
    Mistake(
        "another number of tokens than the config's",
        "ranker",
        (set_json(POSTPROCESSOR, num_tokens=3),),
        'settings.json: num_tokens is 3; output "tokens" of config.pbtxt has dims [2]',
    ),
    Mistake(
        "a token's text that is none",
        "ranker",
        (replace("ranker_postprocessor/1/tokens.json", '"three"', "3"),),
        "ranker_postprocessor/1/tokens.json: 3 is 3; a text is allowed",
    ),
    Mistake(
        "triton.json without the engine's role",
        "encoder",
        (replace("triton.json", '"role": "engine"', '"role": "tokenizer"'),),
        "triton.json: models names 0 of role engine; shape ensemble has one",
    ),
    Mistake(
        "an ensemble for a task that is none",
        "ranker",
        (describe(task="generate"),),
        "triton.json: task is generate; shape ensemble does score, embed, fill_mask",
    ),
)
