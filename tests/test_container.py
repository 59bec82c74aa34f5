"""The container file, read as text: no image can be built where tests run. The README says what was tried of it."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / ".container" / "Containerfile"


@pytest.fixture(scope="module")
def steps():
    """(instruction, what follows it), in order."""
    text = FILE.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


def of(steps, wanted):
    return [rest for name, rest in steps if name == wanted]


def test_it_runs_as_a_user_without_rights(steps):
    last = max(number for number, (name, _) in enumerate(steps) if name == "FROM")
    (user,) = of(steps[last:], "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "a number, which is known to be none of root's without the image"
    after = steps[steps.index(("USER", user)) :]
    assert not of(after, "RUN")
    assert of(after, "ENTRYPOINT") == ['["fx"]']


def test_its_base_has_a_version_and_a_full_name(steps):
    arguments = dict(rest.split("=", 1) for rest in of(steps, "ARG"))
    for base in of(steps, "FROM"):
        image = base.partition(" AS ")[0]
        for name, value in arguments.items():
            image = image.replace(f"${{{name}}}", value)
        host, _, tag = image.rpartition(":")
        assert host.startswith("docker.io/"), image
        assert re.match(r"\d", tag), image


def test_it_is_small_and_for_cpus(steps):
    runs = of(steps, "RUN")
    for run in runs:
        assert "pip install" not in run or "--no-cache-dir" in run
        assert "apt-get install" not in run or "--no-install-recommends" in run
    torch = next(run for run in runs if "torchvision" in run)
    assert '--index-url "$TORCH_INDEX"' in torch
    assert "TORCH_INDEX=https://download.pytorch.org/whl/cpu" in of(steps, "ARG")
    assert len(of(steps, "FROM")) == 2, "what is needed to build it stays behind"


def test_its_extras_are_those_of_the_package_and_bring_weights(steps):
    (extras,) = [rest.removeprefix("EXTRAS=").split(",") for rest in of(steps, "ARG") if rest.startswith("EXTRAS=")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(extras) <= set(project["project"]["optional-dependencies"])
    assert "lite" in extras


def test_it_copies_all_that_the_wheel_is_made_of_and_nothing_else(steps):
    """Data, runs and .git of a checkout must not get into an image."""
    copied = {part for rest in of(steps, "COPY") if "--from" not in rest for part in rest.split()[:-1]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *wheel["force-include"], *project["project"]["license-files"]}
    needed |= {project["project"]["readme"], "pyproject.toml"}
    for path in needed:
        assert any(path == part or path.startswith(f"{part}/") for part in copied), path
    for part in copied:
        assert any(path == part or path.startswith(f"{part}/") for path in needed), part
        assert (ROOT / part).exists(), part


def test_the_readme_says_how_it_is_built():
    assert "docker build -t fx -f .container/Containerfile ." in (ROOT / "README.md").read_text(encoding="utf-8")
