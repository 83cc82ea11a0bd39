"""Settings, arguments and secrets, held against the code that reads them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from synthagent.errors import SynthAgentError
from synthagent.models import CACHE_VARIABLE
from synthagent.settings import PREFIX, ModelRole, Settings, SettingsError
from tests.manifests.arrows import needed, settings_of
from tests.manifests.network import allowed
from tests.manifests.objects import ROOT, Manifests, Object, Pod, is_ours, label, secret_text
from trainer import config as trainer_config
from trainer.config import TrainerConfig

_CONFIGS = "/etc/synthagent/trainer"  # where the image has trainer/configs
_SECRET_NAME = re.compile(r"password|passwd|token$|api_key$|secret", re.IGNORECASE)


def arrows_are_the_call_graph(manifests: Manifests) -> Iterator[str]:
    """What gets through is what the code needs, and nothing else."""
    through, wanted = allowed(manifests), needed(manifests)
    for arrow in sorted(through - wanted):
        yield f"{arrow.source} may reach {arrow.target}:{arrow.port}, and no code does"
    for arrow in sorted(wanted - through):
        yield f"{arrow.source} calls {arrow.target}:{arrow.port}, and no policy lets it"


def settings_are_read(manifests: Manifests) -> Iterator[str]:
    """Every variable is a setting with a value that fits, and ports are those that are opened."""
    for pod in manifests.pods():
        for container in filter(is_ours, pod.every_container):
            yield from _variables(manifests, pod, container)
        if not is_ours(pod.containers[0]) or pod.component == "trainer":
            continue
        try:
            settings = settings_of(manifests, pod)
        except SettingsError as error:
            yield f"{pod.name}: {error}"
            continue
        listens = {
            "grpc": settings.port,
            "metrics": settings.metrics_port,
            "health": settings.health_port,
        }
        opened = {name: port for name, port in listens.items() if port is not None}
        if pod.ports and pod.ports != opened:
            yield f"{pod.name} opens {pod.ports} and listens elsewhere"
        if settings.host != "0.0.0.0":  # a pod's address is not known before
            yield f"{pod.name} listens on {settings.host}, which nobody reaches"


def _variables(manifests: Manifests, pod: Pod, container: Object) -> Iterator[str]:
    if pod.spec.get("enableServiceLinks") is not False:
        yield f"{pod.name}: service links would look like settings"
    known = {*setting_names(), CACHE_VARIABLE}
    for name in manifests.environment(container):
        if name.startswith(PREFIX) and name not in known:
            yield f"{pod.name}: {name} is no setting"


def setting_names() -> set[str]:
    """Variables of all settings, those of each role included."""
    names = set()
    for name, field in Settings.model_fields.items():
        if ModelRole in getattr(field.annotation, "__args__", ()):
            names |= {f"{PREFIX}{name}__{part}".upper() for part in ModelRole.model_fields}
        else:
            names.add(f"{PREFIX}{name}".upper())
    return names


def documented_settings() -> set[str]:
    """Variables that k8s/README.md lists as left at their defaults; `*` stands for each role."""
    text = (ROOT / "k8s/README.md").read_text()
    listed = re.findall(rf"^\| `({PREFIX}[A-Z_*]+)`", text, re.MULTILINE)
    roles = ("TEACHER", "TOOL", "USER", "JUDGE")
    return {name.replace("*", role) for name in listed for role in roles}


def no_secret_is_in_plain_text(manifests: Manifests) -> Iterator[str]:
    """Values that are secret come from Secrets, and Secrets of a build hold no password."""
    for where, values in _plain_values(manifests):
        for name, value in values.items():
            if _SECRET_NAME.search(name) and not name.endswith("_FILE"):
                yield f"{where}: {name} is in plain text"
            elif "://" in value and urlsplit(value).password:
                yield f"{where}: the URL of {name} holds a password"


def _plain_values(manifests: Manifests) -> Iterator[tuple[str, Mapping[str, str]]]:
    for config in manifests.of("ConfigMap"):
        yield label(config), config["data"]
    for secret in manifests.of("Secret"):
        keys = {**secret.get("data", {}), **secret.get("stringData", {})}
        yield label(secret), {key: secret_text(secret, key) for key in keys}
    for pod in manifests.pods():
        for container in pod.every_container:
            given = {e["name"]: str(e["value"]) for e in container.get("env", []) if "value" in e}
            yield f"{pod.name}/{container['name']}", given


def trainer_fits_its_job(manifests: Manifests) -> Iterator[str]:
    """torchrun finds as many nodes as the Job starts, the first of them, and its configuration."""
    pod = manifests.pod("trainer")
    container = pod.containers[0]
    environment = manifests.environment(container)
    nodes = int(environment["PET_NNODES"])
    for job in manifests.of("Job"):
        if job["metadata"]["name"] == pod.owner["metadata"]["name"]:
            yield from _job(manifests, job, nodes, environment)
    for job in manifests.of("TrainJob"):
        if job["spec"]["trainer"]["numNodes"] != nodes:
            yield f"{label(job)} starts another number of nodes than {nodes}"
    gpus = container["resources"]["limits"].get("nvidia.com/gpu")
    if gpus and environment["PET_NPROC_PER_NODE"] != gpus:
        yield f"{pod.name} starts {environment['PET_NPROC_PER_NODE']} ranks on {gpus} GPUs"
    try:
        config = trainer_configuration(manifests)
    except SynthAgentError as error:
        yield f"{pod.name}: {error.message}"
        return
    if config.run.metrics_port != pod.ports["metrics"]:
        yield f"{pod.name} tells its metrics on a port that is not opened"
    for path in (config.run.folder, Path(environment[CACHE_VARIABLE])):
        if not path.is_relative_to("/var/lib/synthagent"):
            yield f"{pod.name}: {path} is not on the volume that rollout reads"


def _job(
    manifests: Manifests, job: Object, nodes: int, environment: Mapping[str, str]
) -> Iterator[str]:
    spec = job["spec"]
    if spec["completionMode"] != "Indexed" or {spec["completions"], spec["parallelism"]} != {nodes}:
        yield f"{label(job)} starts other pods than torchrun's {nodes} nodes"
    pod = spec["template"]["spec"]
    if environment["PET_MASTER_ADDR"] != f"{job['metadata']['name']}-0.{pod['subdomain']}":
        yield f"{label(job)}: ranks look for the first node where it is not"
    service = manifests.one("Service", pod["subdomain"])["spec"]
    if service.get("clusterIP") != "None" or not service.get("publishNotReadyAddresses"):
        yield f"{label(job)}: its pods have no names while they start"


def trainer_configuration(manifests: Manifests) -> TrainerConfig:
    """The trainer's configuration as its pods read it. Raises SynthAgentError."""
    container = manifests.pod("trainer").containers[0]
    environment = manifests.environment(container)
    arguments = [
        re.sub(r"\$\((\w+)\)", lambda found: environment[found[1]], argument)
        for argument in container["args"]
    ]
    path = Path(arguments[0].replace(_CONFIGS, str(ROOT / "trainer/configs")))
    return trainer_config.load(
        path, [argument.removeprefix("--set=") for argument in arguments[1:]]
    )


def model_servers_serve_what_is_asked(manifests: Manifests) -> Iterator[str]:
    """Names, lengths and switches of the model servers are those that the services expect."""
    settings = settings_of(manifests, manifests.pod("rollout"))
    for pod in manifests.pods():
        if pod.labels.get("app.kubernetes.io/name") != "vllm":
            continue
        flags = dict(argument.partition("=")[::2] for argument in pod.containers[0]["args"])
        served = flags["--served-model-name"]
        if int(flags["--port"]) not in pod.ports.values():
            yield f"{pod.name} listens on a port that is not opened"
        if pod.component == "model-policy":
            if served != settings.policy_served_model:
                yield f"{pod.name} serves {served}, not {settings.policy_served_model}"
            if int(flags["--max-model-len"]) < settings.policy_max_sequence_tokens:
                yield f"{pod.name} takes shorter sequences than the policy's"
            if flags["--model"] != settings.policy_model:
                yield f"{pod.name} starts with another model than the policy's tokenizer"
            yield from _policy_switches(pod, flags)
        else:
            for role in (settings.teacher, settings.tool, settings.user, settings.judge):
                if role and role.model != served:
                    yield f"{pod.name} serves {served}, not {role.model}"
    config = trainer_configuration(manifests)
    if config.rl.max_episode_tokens > settings.policy_max_sequence_tokens:
        yield "the trainer asks for longer episodes than the policy holds"
    if config.model.name != settings.policy_model:
        yield f"the trainer trains {config.model.name}, and {settings.policy_model} acts"


def _policy_switches(pod: Pod, flags: Mapping[str, str]) -> Iterator[str]:
    wanted = {"--logprobs-mode": "raw_logprobs", "--generation-config": "vllm"}
    if not wanted.items() <= flags.items() or "--enable-scale-out" not in flags:
        yield f"{pod.name} does not sample as a policy must"
    if {"name": "VLLM_SERVER_DEV_MODE", "value": "1"} not in pod.containers[0]["env"]:
        yield f"{pod.name} takes no new weights"
    if pod.owner["spec"].get("replicas") != 1:
        yield f"{pod.name}: new weights would reach one of several replicas"


CHECKS = (
    arrows_are_the_call_graph,
    settings_are_read,
    no_secret_is_in_plain_text,
    trainer_fits_its_job,
    model_servers_serve_what_is_asked,
)
