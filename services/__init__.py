"""One folder a service; `python -m services NAME` runs one, `all` embeds them in one process."""
