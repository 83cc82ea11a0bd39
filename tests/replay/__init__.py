"""The replay server: an OpenAI-compatible server that answers from hand-written products."""
