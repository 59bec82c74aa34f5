"""Every error that a user can meet, one tree; the class says the exit code and builds the message.

    FxError                     1    a defect in fx itself, or anything without a class of its own
    ├── UsageError              2    wrong arguments
    ├── RecipeError             3    a recipe cannot be read or is not valid: every problem at once
    │   └── UnknownName         3    a backbone, pretrainer or weight key that no plugin registers
    ├── DataError               4    pictures, folders and manifests
    │   ├── UnreadableImage     4    one picture; batch commands turn it into a row with status=error
    │   └── NothingFound        4    a folder or list without a single picture
    ├── PluginError             5    a plugin is broken, or breaks the contract of its spec
    ├── RunError                6    a run directory: absent, locked, or not to be resumed
    │   └── ModelFileError      6    a model file that is not one, or is damaged
    ├── MissingDependency       7    an optional package is not installed
    │   └── WeightsUnavailable  7    pretrained weights can be neither found nor downloaded, or fail their hash
    ├── SomeRowsFailed          9    the batch is complete, but some of its rows are errors
    └── Interrupted           130    stopped by the user, after saving

A message says what was wrong, where, and what to do next. cli.main() prints it and exits with the code.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path


class FxError(Exception):
    """Base of all errors of fx.

    Args:
        what: What is wrong, in one sentence without a full stop.
        where: File, file:line, key or row where it was found.
        hint: What the user can do next.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | Path | None = None, hint: str | None = None) -> None:
        self.what, self.where, self.hint = what, where, hint
        super().__init__(what)

    def __reduce__(self) -> tuple[object, ...]:
        # The default would call the class with the message alone when a worker process sends it over.
        return _sent_over, (type(self), self.args), self.__dict__

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where is not None else self.what]
        if self.hint:
            lines.append(f"  → {self.hint}")
        return "\n".join(lines)


def _sent_over(kind: type[FxError], args: tuple[str, ...]) -> FxError:
    return kind.__new__(kind, *args)


class UsageError(FxError):
    """The command line asks for something that is not possible."""

    exit_code = 2


class RecipeError(FxError):
    """A recipe cannot be used.

    Args:
        problems: One line per problem, each with its own place; printed together.
        recipe: The recipe as the user named it; None where that is not known.
    """

    exit_code = 3

    def __init__(self, problems: Sequence[str], *, recipe: str | Path | None, hint: str | None = None) -> None:
        self.problems = list(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        named = "the recipe" if recipe is None else f"recipe {recipe}"
        text = "\n".join([f"{count} in {named}", *(f"  {line}" for line in self.problems)])
        super().__init__(text, hint=hint)


class UnknownName(RecipeError):
    """No plugin registers this name.

    Args:
        kind: "backbone", "pretrainer", "weights" …
        name: What was asked for.
        known: All names that would have been accepted.
        close: The likeliest of them (did you mean).
        not_loaded: "plugin: reason" of each plugin that failed to load and might have offered it.
    """

    def __init__(
        self,
        kind: str,
        name: str,
        *,
        known: Sequence[str],
        close: Sequence[str] = (),
        not_loaded: Sequence[str] = (),
    ) -> None:
        lines = [f"unknown {kind} '{name}'" + (f" — did you mean {' or '.join(close)}?" if close else "")]
        lines.append(f"known: {', '.join(known) or 'none'}")
        lines += [f"not loaded: {line}" for line in not_loaded]
        self.problems = lines
        hint = "fx plugins lists everything that is installed"
        FxError.__init__(self, "\n  ".join(lines), hint=hint)


class DataError(FxError):
    """Pictures, folders or manifests are not as they must be."""

    exit_code = 4


class UnreadableImage(DataError):
    """One picture cannot be used; `reason` is what a row of predictions shows."""

    def __init__(self, path: str | Path, reason: str) -> None:
        self.path, self.reason = Path(path), reason
        super().__init__(f"cannot read this picture: {reason}", where=path)


class NothingFound(DataError):
    """A folder or list has no picture in it.

    Args:
        where: It.
        extensions: Of pictures.
        others: What is there instead, in words; "" for nothing at all.
    """

    def __init__(self, where: str | Path, extensions: Sequence[str], others: str = "") -> None:
        super().__init__(
            f"no picture found here, but {others}" if others else "no picture found here: there is nothing in it",
            where=where,
            hint=f"pictures are files ending in {' '.join(extensions)}, or beginning as those do",
        )


class PluginError(FxError):
    """A plugin is broken or does not keep the contract of what it registers."""

    exit_code = 5


class RunError(FxError):
    """A run directory is absent, locked, unfinished, or does not fit what is asked of it."""

    exit_code = 6


class ModelFileError(RunError):
    """A model file is not one of fx, is damaged, or needs a plugin that is not there."""


class MissingDependency(FxError):
    """An optional package is needed.

    Args:
        package: Its import name.
        extra: The extra of fxcli that brings it.
        purpose: What it is needed for.
    """

    exit_code = 7

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package}, which is not installed",
            hint=f"python -m pip install 'fxcli[{extra}]'",
        )


class WeightsUnavailable(MissingDependency):
    """Pretrained weights cannot be had: offline, not installed, or not the file that was published."""

    def __init__(self, what: str, *, hint: str) -> None:
        FxError.__init__(self, what, hint=hint)


class SomeRowsFailed(FxError):
    """The batch is complete; some rows have status=error."""

    exit_code = 9

    def __init__(self, failed: int, total: int, where: str | Path) -> None:
        super().__init__(
            f"{failed} of {total} pictures could not be used",
            hint=f"{where} names each with its reason",
        )


class Interrupted(FxError):
    """Stopped by the user; what was done is saved."""

    exit_code = 130


# How torch's words begin where the processor's memory is used up.
_ALLOCATOR = "DefaultCPUAllocator:"


def memory_used_up(error: BaseException) -> str | None:
    """Whose memory an error says is used up, "device" or "computer"; None where it says something else."""
    # torch is asked only where a command has imported it; of the processor's memory it has no class.
    kind = getattr(sys.modules.get("torch"), "OutOfMemoryError", None)
    if kind is not None and isinstance(error, kind):
        return "device"
    is_ours = isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _ALLOCATOR in str(error))
    return "computer" if is_ours else None
