"""What `deploy/` starts is what today's command line takes; probes ask for routes that exist."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from foresay import __version__
from foresay.cli.main import main
from foresay.serving.config import ServeConfig
from foresay.serving.routes import health

HERE = Path(__file__).parent.parent
DEPLOY = HERE / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["foresay"]
KUBERNETES = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
POD = KUBERNETES[0]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


def instruction(name: str) -> list[str]:
    """The words of the Dockerfile's last instruction of a name, in its JSON form."""
    found: list[str] = json.loads(re.findall(rf"^{name} (\[.*\])$", DOCKERFILE, re.M)[-1])
    return found


ENTRYPOINT = instruction("ENTRYPOINT")


@pytest.mark.parametrize("words", [instruction("CMD"), COMPOSE["command"], CONTAINER["args"]])
def test_the_command_line_takes_the_words(words: list[str]) -> None:
    """As the shell would start it: an option that is gone, or a value of another kind, fails here."""
    program, command, *rest = ENTRYPOINT + words
    assert program == "foresay"
    with click.Context(main, info_name="foresay") as parent:
        found = main.get_command(parent, command)
        assert found is not None
        with found.make_context(command, rest, parent=parent) as context:
            values: dict[str, Any] = context.params
    assert values["host"] == "0.0.0.0" and values["checkpoints"] == ("/models/checkpoint",)  # noqa: S104
    assert values["port"] == 8000 == ServeConfig().port
    with pytest.raises(SystemExit, match="2"):
        main(["serve", *rest, "--no-such-option"])


def test_ports_and_probes() -> None:
    """All name the port that the server listens on, and routes that it has."""
    routes = {getattr(route, "path", "") for route in health.router.routes}
    probes = [CONTAINER[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")]
    assert {probe["path"] for probe in probes} == {"/ready", "/health"} <= routes
    (port,) = CONTAINER["ports"]
    assert port["containerPort"] == ServeConfig().port
    assert {probe["port"] for probe in probes} == {port["name"]} == {KUBERNETES[1]["spec"]["ports"][0]["targetPort"]}
    assert KUBERNETES[1]["spec"]["selector"].items() <= KUBERNETES[0]["spec"]["template"]["metadata"]["labels"].items()
    notes = KUBERNETES[0]["spec"]["template"]["metadata"]["annotations"]
    assert notes["prometheus.io/port"] == str(port["containerPort"]) and notes["prometheus.io/path"] in routes
    assert f"http://127.0.0.1:{port['containerPort']}/ready" in instruction(r"HEALTHCHECK .*\\\n +CMD")[-1]
    assert COMPOSE["ports"] == [f"127.0.0.1:8000:{port['containerPort']}"]


def test_shutting_down_has_its_time() -> None:
    """A container is killed only after what was begun may be finished."""
    drain = int(CONTAINER["args"][CONTAINER["args"].index("--drain") + 1])
    sleep = int(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    assert POD["terminationGracePeriodSeconds"] > drain + sleep
    assert int(COMPOSE["stop_grace_period"].removesuffix("s")) > ServeConfig().drain


def test_the_image_finds_what_it_copies() -> None:
    """Files that are there, an extra that exists, a pinned torch, and the version that the manifest names."""
    copied = [word for line in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.M) for word in line.split()]
    assert copied and all((HERE / word).exists() for word in copied)
    project = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
    assert {project["readme"], *project["license-files"]} <= set(copied)
    (extra,) = re.findall(r"'\.\[(\w+)\]'", DOCKERFILE)
    assert extra in project["optional-dependencies"]
    assert re.search(r"^torch==", (HERE / "constraints.txt").read_text(), re.M)
    assert CONTAINER["image"] == f"foresay:{__version__}"


def test_the_rights_are_few() -> None:
    """The user of the image is the one that Kubernetes asks for; nothing is written but where a volume is."""
    (user,) = re.findall(r"^USER (\d+)$", DOCKERFILE, re.M)
    assert POD["securityContext"]["runAsUser"] == int(user) and f"--uid {user}" in DOCKERFILE
    assert POD["securityContext"]["runAsNonRoot"] and CONTAINER["securityContext"]["readOnlyRootFilesystem"]
    assert COMPOSE["read_only"] and COMPOSE["cap_drop"] == ["ALL"]
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert {volume["name"] for volume in POD["volumes"]} == set(mounts)
    (home,) = re.findall(r"^WORKDIR (/home\S*)$", DOCKERFILE, re.M)
    assert home in mounts.values() and home in COMPOSE["tmpfs"]
