"""Lets `python -m llmopt` stand for the `llmopt` command."""

from llmopt.cli.main import main

if __name__ == "__main__":
    main()
