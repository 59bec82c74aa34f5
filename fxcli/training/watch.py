"""What a pretraining has learnt so far: nearest neighbours by their labels, and whether everything looks alike.

Nothing is chosen by it; it stops a pretraining alone that has collapsed. Called by pretrain before the first epoch and
at the end of some; what the embeddings of an epoch's batches tell, at the end of each.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fxcli.console import console
from fxcli.data.dataset import evenly, workers_of
from fxcli.data.manifest import Manifest, Row
from fxcli.data.preprocess import Preprocessing
from fxcli.errors import RunError
from fxcli.evaluation import representation
from fxcli.inference.pipeline import ordered_map
from fxcli.model.hardware import Compute
from fxcli.training import session

# Pictures that vote, evenly spread over the training part: a vote of more tells no more.
MOST = 2000
# Fewer have next to no rank, whatever was learnt: that of two pictures is 1.
LEAST_FOR_RANK = 10
_BATCH = 32
# Epochs in a row with hardly any spread of the embeddings, before that is called a collapse.
_FLAT_EPOCHS = 2
_REMEDY = (
    "a lower optim.lr, a longer schedule.warmup_epochs, or a larger train.batch_size; "
    "in a new run; one with train.look_every=0 would go on all the same"
)


def is_flat(embedding_spread: float) -> bool:
    """Whether all embeddings that the loss compares are alike: there a collapse shows before it does in features."""
    return embedding_spread < representation.LEAST_EMBEDDING_SPREAD


def check_embeddings(embedding_spread: float, flat_epochs: int) -> None:
    """Ends what has collapsed for the loss, whatever its features look like.

    Args:
        embedding_spread: Mean of the last epoch, see `representation.spread`.
        flat_epochs: In so many in a row, up to that one, it was flat.

    Raises:
        RunError: In too many.
    """
    if flat_epochs >= _FLAT_EPOCHS:
        raise RunError(
            "the representation has collapsed: all embeddings that the loss compares are alike (spread "
            f"{embedding_spread:.2g}, and in {flat_epochs} epochs below {representation.LEAST_EMBEDDING_SPREAD})",
            hint=_REMEDY,
        )


@dataclass(frozen=True)
class Watch:
    """Looks at a backbone.

    Attributes:
        manifest: Of the pictures: those of the training part vote on those of the validation part.
        preprocessing: Theirs.
        compute: Where it computes, in fp32.
        workers: Decoding threads; None one per core, at most 4.
    """

    manifest: Manifest
    preprocessing: Preprocessing
    compute: Compute
    workers: int | None = None

    def look(
        self, backbone: nn.Module, check: Callable[[], None], *, may_be_collapsed: bool = False
    ) -> dict[str, float]:
        """What is logged.

        Args:
            backbone: Images → feature map; its mode is put back.
            check: Called before each batch; may raise to end it.
            may_be_collapsed: Before anything is learnt: to random weights all pictures may look alike.

        Returns:
            feature_spread and effective_rank of training pictures; with a validation part of two or more classes,
            knn_balanced_accuracy.

        Raises:
            RunError: The features have collapsed, or are not finite.
            UnreadableImage: A picture cannot be read.
        """
        train, val = self.manifest.part("train"), self.manifest.part("val")
        voting = evenly(train, MOST)
        classes = sorted({row.label for row in train})
        asked = [row for row in val if row.label in classes] if len({row.label for row in val}) > 1 else []
        found = self._features(backbone, [*voting, *asked], check)
        if not np.isfinite(found).all():
            raise RunError("the features are no longer finite", hint=session.DIVERGED)
        bank = found[: len(voting)]
        told = {"feature_spread": representation.spread(bank), "effective_rank": representation.effective_rank(bank)}
        is_flat = len(voting) >= LEAST_FOR_RANK and told["effective_rank"] < representation.LEAST_RANK
        is_collapsed = told["feature_spread"] < representation.LEAST_SPREAD or is_flat
        if is_collapsed and not may_be_collapsed:
            raise RunError(
                f"the representation has collapsed: all pictures look alike (spread {told['feature_spread']:.2g}, "
                f"effective rank {told['effective_rank']:.2f})",
                hint=_REMEDY,
            )
        if asked:
            labels, targets = (np.array([classes.index(row.label) for row in rows]) for rows in (voting, asked))
            predicted = representation.knn(bank, labels, found[len(voting) :], len(classes))
            told["knn_balanced_accuracy"] = representation.balanced_accuracy(predicted, targets, len(classes))
        return told

    @torch.inference_mode()
    def _features(self, backbone: nn.Module, rows: Sequence[Row], check: Callable[[], None]) -> np.ndarray:
        """[N, D] float64, in eval mode."""
        with session.in_eval(backbone):
            return np.concatenate(list(self._batches(backbone, [self.manifest.path_of(row) for row in rows], check)))

    def _batches(self, backbone: nn.Module, paths: Sequence[Path], check: Callable[[], None]) -> Iterator[np.ndarray]:
        def fitted(path: Path) -> np.ndarray:
            return self.preprocessing.fit(self.preprocessing.load(path))

        workers = workers_of(self.workers)
        pictures = ordered_map(fitted, paths, workers=workers, ahead=2 * _BATCH)
        seen = iter(console.progress(pictures, total=len(paths), what="look"))
        while chunk := list(itertools.islice(seen, _BATCH)):
            check()
            images = self.compute.send(self.preprocessing.normalise(torch.from_numpy(np.stack(chunk))[:, None]))
            yield backbone(images).mean(dim=(2, 3)).cpu().double().numpy()
