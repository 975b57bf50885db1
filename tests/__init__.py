"""The tests, run offline."""

import os

# Here and not in conftest.py: huggingface_hub reads it once, when it is first imported.
os.environ["HF_HUB_OFFLINE"] = "1"
