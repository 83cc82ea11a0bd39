"""Ends what an outright killed call of the same folder left running.

A killed program ends no children, and two trainers in one run folder would destroy each other's
checkpoints. Such children are known by the folder: in the trainer's arguments, or in the database
URL that the services were started with.
"""

from __future__ import annotations

from pathlib import Path

import psutil

_GRACE_SECONDS = 10.0


def end_leftovers(folder: Path) -> int:
    """Ends the processes of `folder` and waits for them; returns how many there were."""
    left = [process for process in psutil.process_iter() if _belongs(process, folder)]
    for process in left:
        process.terminate()
    for process in psutil.wait_procs(left, timeout=_GRACE_SECONDS)[1]:
        process.kill()
    psutil.wait_procs(left, timeout=_GRACE_SECONDS)
    return len(left)


def _belongs(process: psutil.Process, folder: Path) -> bool:
    if process.pid == psutil.Process().pid:
        return False
    try:
        arguments = process.cmdline()
        if "-m" not in arguments:
            return False
        if "trainer" in arguments:
            return any(part.startswith(f"run.folder={folder}/") for part in arguments)
        url = process.environ().get("SYNTHAGENT_DATABASE_URL", "")
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False  # gone meanwhile, or somebody else's
    return "services" in arguments and url.startswith(f"sqlite:///{folder}/")
