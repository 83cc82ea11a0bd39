"""The local policy engine: a language model that acts in episodes, on CPU or GPU.

    chat.py         the model's chat format as token ids; no torch
    engine.py       the asynchronous interface that the rollout service uses
    worker.py       the thread behind it: continuous batching, one forward pass a step
    transformer.py  the forward pass over cached keys and values
    cache.py        keys and values of prompts and sequences
    sampling.py     tokens and log-probabilities from logits
    weights.py      reads, checks and packs weights
    convert.py      makes the default model's folder, once

And the same interface over a vLLM server, without torch:

    remote.py          turns: tokens out, tokens in
    server_weights.py  which weights the server must have, and that it has them
    published.py       checks published weights and adapters
    transfer.py        weights that the trainer sends by NCCL
    vllm.py            what is asked of the server; vllm_http.py how

Importing this package loads none of them. It sets one thing before torch can be loaded: idle
OpenMP threads sleep instead of spinning. The engine shares its cores with the services' event loop
and often with a trainer, and a spinning thread keeps the very thread it waits for off the core:
measured on 2 busy cores, one matrix product took 8 to 15 ms with spinning threads,
0.3 to 0.7 ms without.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
