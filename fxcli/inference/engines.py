"""What computes logits: torch, or a runtime over an exported file. The pipeline knows no more of them than `Engine`.

Several threads may run one engine at once; `shared_by` divides the processor among them, so that no thread waits for
another's. Exported files are opened in runtimes; choosing an engine is done in opened.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fxcli.data.dataset import workers_of
from fxcli.data.preprocess import Preprocessing
from fxcli.inference.fold import fold_batchnorm
from fxcli.model import pointwise
from fxcli.model.classifier import Classifier, Outputs
from fxcli.model.hardware import Compute
from fxcli.zoo.specs import Stage

# Beyond it memory grows faster than speed.
MOST_STREAMS = 8
# Pictures per forward pass where the caller names no number: on a CPU the maps of more no longer fit its caches.
CPU_BATCH_SIZE, GPU_BATCH_SIZE = 8, 32
# Rounding does most harm where it begins: with EfficientNet-Lite0's layers at stride 2 in fp32, probabilities differ by
# less than half as much, and it takes no longer (tests/bench/rounding.py --stages).
FP32_STRIDE = 2


class Computed(NamedTuple):
    """What an engine says of a batch, float32.

    Attributes:
        logits: [B, M, K] of each member.
        maps: [B, K, h, w], the mean over members (see Classifier.class_maps).
        distance: [B] from the training pictures, the mean over members; None for a model without statistics.
        features: [B, M, D] that the head of each member sees; None where a graph does not give them.
    """

    logits: np.ndarray
    maps: np.ndarray
    distance: np.ndarray | None
    features: np.ndarray | None = None


class Shared(Protocol):
    """What several threads run at once."""

    @property
    def streams(self) -> int:
        """How many threads, at best."""
        ...

    def shared_by(self, streams: int) -> contextlib.AbstractContextManager[Callable[[], None]]:
        """While it lasts, that many threads run it; each calls what it gives before its first picture."""
        ...


class Engine(Shared, Protocol):
    """Runs a classifier over fitted pictures."""

    @property
    def name(self) -> str:
        """Torch, openvino or onnxruntime."""
        ...

    @property
    def precision(self) -> str:
        """Fp32, bf16 or int8."""
        ...

    @property
    def batch_size(self) -> int:
        """Pictures per call, at best."""
        ...

    def run(self, images: np.ndarray) -> Computed:
        """[B, 1, S, S] uint8 → what is said of each."""
        ...


def streams_on(device: torch.device) -> int:
    """How many threads run a network of torch there at once, at best: a CPU's share the work, others feed a device."""
    return min(torch.get_num_threads(), MOST_STREAMS) if device.type == "cpu" else workers_of(None)


@contextlib.contextmanager
def dividing(streams: int) -> Iterator[Callable[[], None]]:
    """While it lasts, each of so many threads has its share of torch's, once it has called what this gives."""
    threads = torch.get_num_threads()
    try:
        yield lambda: torch.set_num_threads(max(1, threads // streams))
    finally:
        # The number is kept by thread, but a new thread starts with the one that was set last.
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class TorchEngine:
    """One or several classifiers in torch.

    Attributes:
        members: In eval mode, on the device of `compute`.
        preprocessing: Its normalisation is applied here.
        compute: Device, precision, layout.
    """

    members: tuple[Classifier, ...]
    preprocessing: Preprocessing
    compute: Compute
    _turn: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def name(self) -> str:
        """See Engine."""
        return "torch"

    @property
    def precision(self) -> str:
        """See Engine."""
        return self.compute.precision

    @property
    def is_on_cpu(self) -> bool:
        """Whether threads share the work, or only feed a device."""
        return self.compute.device.type == "cpu"

    @property
    def streams(self) -> int:
        """See Engine."""
        return streams_on(self.compute.device)

    @property
    def batch_size(self) -> int:
        """See Engine."""
        return CPU_BATCH_SIZE if self.is_on_cpu else GPU_BATCH_SIZE

    def shared_by(self, streams: int) -> contextlib.AbstractContextManager[Callable[[], None]]:
        """See Engine."""
        return dividing(streams if self.is_on_cpu else 1)

    def batch(self, images: np.ndarray) -> Tensor:
        """[B, 1, S, S] uint8 → [B, 3, S, S] float32, normalised, on the device and in the layout of `compute`."""
        # Sent as bytes, a twelfth of what the normalised batch takes; the second call sets the layout.
        sent = torch.from_numpy(images).to(self.compute.device)
        return self.compute.send(self.preprocessing.normalise(sent))

    @torch.inference_mode()
    def run(self, images: np.ndarray) -> Computed:
        """See Engine."""
        with contextlib.nullcontext() if self.is_on_cpu else self._turn:
            batch = self.batch(images)
            outputs = []
            for member in self.members:
                with self.compute.autocast():
                    feature_map = member.backbone(batch)
                # Pooling and head stay fp32: they cost nothing, and a rounded logit decides a close call.
                outputs.append(member.outputs(feature_map.float()))
            logits, maps, distance, features = joined(outputs)
            return Computed(
                logits.cpu().numpy(),
                maps.cpu().numpy(),
                None if distance is None else distance.cpu().numpy(),
                features.cpu().numpy(),
            )


def joined(outputs: Sequence[Outputs]) -> Outputs:
    """Of M members: logits [B, M, K] and features [B, M, D], and the mean of the rest."""
    distances = [each.distance for each in outputs if each.distance is not None]
    return Outputs(
        torch.stack([each.logits for each in outputs], dim=1),
        torch.stack([each.maps for each in outputs]).mean(dim=0),
        torch.stack(distances).mean(dim=0) if len(distances) == len(outputs) else None,
        torch.stack([each.features for each in outputs], dim=1),
    )


class _InFp32(nn.Module):
    """A part of a network that computes in fp32, amid autocast."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            return self.part(images.float())  # type: ignore[no-any-return]


def fast(
    members: Sequence[Classifier],
    preprocessing: Preprocessing,
    compute: Compute,
    stages: Sequence[Stage],
    *,
    fp32_stride: int = FP32_STRIDE,
) -> TorchEngine:
    """An engine for prediction alone: in channels last, with BatchNorm folded and weights in what is computed in.

    Args:
        members: Changed in place: they can neither be trained nor saved after this.
        preprocessing: Its.
        compute: Device and precision; the layout is chosen here.
        stages: Of its backbone.
        fp32_stride: Stages up to this stride stay in fp32.
    """
    chosen = Compute(compute.device, compute.precision, channels_last=compute.device.type != "mps")
    size_px = preprocessing.image_size_px
    probe = torch.randn(1, 3, size_px, size_px, generator=torch.Generator().manual_seed(0)).to(compute.device)
    for member in members:
        chosen.place(member)
        # Where there is no head, the feature map must stay as it is.
        folded = fold_batchnorm(member if member.head.out_features else member.backbone, probe)
        if chosen.precision == "bf16":
            _round(member, folded, [name for stage in stages if stage.stride <= fp32_stride for name in stage.modules])
        pointwise.by_onednn(member, chosen.device)
        chosen.place(member)
    return TorchEngine(tuple(members), preprocessing, chosen)


def _round(classifier: Classifier, folded: set[nn.Module], kept: Sequence[str]) -> None:
    """Rounds weights to bf16, but for those of the modules that are kept in fp32."""
    inside = {part for name in kept for part in classifier.backbone.get_submodule(name).modules()}
    # Autocast casts them anew for every batch. Other layers may read their weights outside of its reach.
    for module in classifier.backbone.modules():
        if (module in folded or type(module) in (nn.Conv2d, nn.Linear)) and module not in inside:
            module.to(torch.bfloat16)
    for name in kept:
        classifier.backbone.set_submodule(name, _InFp32(classifier.backbone.get_submodule(name)))
