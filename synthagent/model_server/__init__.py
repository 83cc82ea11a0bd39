"""The model server: starts vLLM, waits until it answers, and leaves nothing behind.

    folder.py     lays out a model folder that vLLM serves and reloads whole
    ways.py       how published weights reach a server, as data
    adapter.py    what a published adapter consists of
    supervise.py  the server as a process: command, readiness, end
    keeper.py     ends all of the server when the server or its supervisor ends
    __main__.py   `make model-server`

vLLM runs in an environment of its own (`VLLM_PYTHON`); nothing of it is imported here.
"""
