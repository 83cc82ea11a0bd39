"""The flags of the model servers in k8s/ are those of the vLLM that is installed."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.manifests.objects import ROOT, built

pytestmark = pytest.mark.llm

_PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(json.loads(sys.argv[1]))
print(json.dumps({"model": parsed.model, "served": parsed.served_model_name}))
"""


@pytest.mark.parametrize("component", ["model-policy", "model-roles"])
def test_vllm_knows_every_flag(component: str) -> None:
    python = Path(os.environ.get("VLLM_PYTHON", ROOT / ".venv-model-server/bin/python"))
    arguments = built("production").pod(component).containers[0]["args"]
    done = subprocess.run(
        [python, "-c", _PARSE, json.dumps(arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    parsed = json.loads(done.stdout.splitlines()[-1])
    assert parsed["served"] == [component.removeprefix("model-")]
    assert parsed["model"].endswith(component.removeprefix("model-"))
