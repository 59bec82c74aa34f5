"""The embedded default data of fx: drawn pictures that look like radiographs of seven fracture types.

`plan` lists the cases and `draw` draws one: limb → pose → attenuation → exposure → burnt-in letters. Bones
and limbs are in phantom_shapes, the ways to break them in phantom_fractures; no file is written here. Called
by the preparation of a manifest, for `fx prepare phantom` and the quickstart. Nothing can be learnt about
patients from these pictures: they exist so that every command can be tried and timed without a download.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from fxcli.data.phantom_fractures import FRACTURES, Fracture, Piece, everything
from fxcli.data.phantom_shapes import Bone, Field, Limb, Motion, above, draw_limb, smooth_step
from fxcli.errors import DataError

CLASSES: tuple[str, ...] = (
    "avulsion",
    "comminuted",
    "fracture_dislocation",
    "curved",
    "linear",
    "internal",
    "hairline",
)
VIEWS_PER_PATIENT = 2
# Strokes as corners "xy" on a grid 9 high, y down. Drawn by hand: fonts differ between installations,
# pictures must not.
GLYPHS: dict[str, tuple[str, ...]] = {
    "L": ("00 09 59",),
    "R": ("09 00 40 61 63 45 05", "35 69"),
    "0": ("00 50 59 09 00",),
    "1": ("02 20 29",),
    "2": ("00 50 54 09 59",),
    "3": ("00 50 59 09", "14 54"),
    "4": ("49 40 06 56",),
    "5": ("50 00 04 54 59 09",),
    "6": ("40 04 09 59 54 04",),
    "7": ("00 50 29",),
    "8": ("00 50 59 09 00", "04 54"),
    "9": ("19 55 50 00 04 54",),
}
TEXTURE_CELLS = 256
TEXTURE_CELLS_PER_UNIT = 110.0


@dataclass(frozen=True, kw_only=True)
class PhantomCase:
    """One picture to be drawn.

    Attributes:
        name: File stem, as "phantom-0007-curved-a"; the letter is the view.
        label: One of CLASSES.
        split: "train", "val" or "test".
        group: The drawn patient: its pictures show the same bones and fracture, and lie in one split.
        seed: Patient seed × VIEWS_PER_PATIENT + view; the picture is a function of it and of `label`.
    """

    name: str
    label: str
    split: str
    group: str
    seed: int


def plan(
    *, seed: int = 0, train_per_class: int = 64, val_per_class: int = 12, test_per_class: int = 24
) -> list[PhantomCase]:
    """Lists the cases of a data set with equal classes.

    Args:
        seed: Another seed gives other patients.
        train_per_class: Pictures, not patients; a patient gives up to VIEWS_PER_PATIENT of them.
        val_per_class: The same for the split "val".
        test_per_class: The same for the split "test".

    Raises:
        DataError: A count or the seed is negative.
    """
    counts = {"train": train_per_class, "val": val_per_class, "test": test_per_class}
    if seed < 0 or min(counts.values()) < 0:
        raise DataError(
            f"the phantom needs a seed and counts from 0 up, not seed {seed} and {counts}",
            hint="give positive numbers, or leave them out for the defaults",
        )
    cases: list[PhantomCase] = []
    patient = 0
    for split, count in counts.items():
        views = _views(count)
        for turn in range(len(views)):
            for label in CLASSES:
                cases += _patient(seed, patient, label, split, views[turn])
                patient += 1
    return cases


def _views(pictures: int) -> list[int]:
    """Pictures of each patient of a class in a split: 2, 1, 2, 1 … , as many as are wanted."""
    views: list[int] = []
    while pictures > 0:
        views.append(min(pictures, VIEWS_PER_PATIENT if len(views) % 2 == 0 else 1))
        pictures -= views[-1]
    return views


def _patient(seed: int, patient: int, label: str, split: str, views: int) -> list[PhantomCase]:
    """The pictures of one patient, numbered over the whole plan."""
    patient_seed = int(np.random.SeedSequence([seed, patient]).generate_state(1, np.uint32)[0])
    return [
        PhantomCase(
            name=f"phantom-{patient:04d}-{label}-{'ab'[view]}",
            label=label,
            split=split,
            group=f"phantom-{seed}-{patient:04d}",
            seed=patient_seed * VIEWS_PER_PATIENT + view,
        )
        for view in range(views)
    ]


def draw(case: PhantomCase, size_px: int = 256) -> npt.NDArray[np.uint8]:
    """Draws a case.

    Args:
        case: From `plan`, or made by hand.
        size_px: Side of the picture. The scene stays the same at every size; only the noise is drawn anew.

    Returns:
        uint8 [size_px, size_px], bone bright; equal bytes for equal arguments.

    Raises:
        DataError: The label is not one of CLASSES, the seed is negative, or the size is below 32.
    """
    if case.label not in FRACTURES or case.seed < 0 or size_px < 32:
        raise DataError(
            f"the phantom cannot draw {case.label!r} with seed {case.seed} at {size_px} px",
            where=case.name,
            hint=f"classes: {', '.join(CLASSES)}; seeds from 0 up; from 32 px up",
        )
    of_patient, rng = _streams(case)
    limb, fracture, frame = _posed(case, size_px, of_patient, rng)
    texture = _texture(of_patient)
    attenuation = _attenuation(rng, frame, limb, fracture, texture)
    return _expose(rng, attenuation)


def box(case: PhantomCase, size_px: int = 256) -> tuple[float, float, float, float]:
    """Left, top, right and bottom, in pixels, of a box around the fracture that `draw` draws.

    Args:
        case: As for `draw`.
        size_px: Likewise.
    """
    limb, fracture, frame = _posed(case, size_px, *_streams(case))
    bone = limb.bones[limb.broken]
    u = np.linspace(*fracture.extent_u, 9, dtype=np.float32)
    walls = [(u, bone.axis(u) + side * bone.half_width_at(u)) for side in (-1.0, 1.0)]
    moved = [piece.motion.apply(*wall) for piece in fracture.pieces for wall in walls]
    rows, columns = frame.window(*np.concatenate(moved, axis=1))
    return float(columns.start), float(rows.start), float(columns.stop), float(rows.stop)


def _streams(case: PhantomCase) -> tuple[np.random.Generator, np.random.Generator]:
    """What is random of the patient, and of the picture."""
    patient_seed, view = divmod(case.seed, VIEWS_PER_PATIENT)
    return np.random.default_rng([patient_seed, 0]), np.random.default_rng([patient_seed, 1, view])


def _posed(
    case: PhantomCase, size_px: int, of_patient: np.random.Generator, rng: np.random.Generator
) -> tuple[Limb, Fracture, Frame]:
    """The limb of a patient and what happened to it, as they lie in a picture."""
    limb = draw_limb(of_patient)
    limb, fracture = _turned(rng, limb, FRACTURES[case.label](of_patient, limb.bones[limb.broken], limb.site_u))
    return limb, fracture, _frame(rng, limb.bones[limb.broken], fracture.site_u, size_px)


def _texture(rng: np.random.Generator) -> Field:
    """Trabeculae: band-passed noise, longer along the bone, periodic, of unit variance; [u, v]."""
    along = np.fft.fftfreq(TEXTURE_CELLS)[:, None] * TEXTURE_CELLS * 1.7
    across = np.fft.rfftfreq(TEXTURE_CELLS)[None, :] * TEXTURE_CELLS
    band = np.exp(-(((np.hypot(along, across) - 46.0) / 30.0) ** 2)).astype(np.float32)
    white = rng.standard_normal((TEXTURE_CELLS, TEXTURE_CELLS), dtype=np.float32)
    noise = np.fft.irfft2(np.fft.rfft2(white) * band, s=white.shape)
    return np.asarray(noise / noise.std(), dtype=np.float32)


def _clouds(rng: np.random.Generator, cells: int, size_px: int) -> Field:
    """Smooth noise of about unit variance with `cells` cells along a side; [size_px, size_px]."""
    return _resized(rng.standard_normal((cells, cells), dtype=np.float32), size_px)


def _resized(values: Field, size_px: int) -> Field:
    picture = Image.fromarray(values).resize((size_px, size_px), Image.Resampling.BICUBIC)
    return np.asarray(picture, dtype=np.float32)


def _turned(rng: np.random.Generator, limb: Limb, fracture: Fracture) -> tuple[Limb, Fracture]:
    """The limb turned about its own axis: its bones close up, and displacements look smaller or larger."""
    spread, sideways = rng.uniform(0.7, 1.0), rng.uniform(0.75, 1.15)

    def bones(group: tuple[Bone, ...]) -> tuple[Bone, ...]:
        return tuple(replace(bone, centre=bone.centre * spread, slope=bone.slope * spread) for bone in group)

    def motion(old: Motion) -> Motion:
        pivot, shift = (old.pivot[0], old.pivot[1] * spread), (old.shift[0], old.shift[1] * sideways)
        return Motion(pivot=pivot, shift=shift, turn_rad=old.turn_rad * sideways)

    turned = replace(limb, bones=bones(limb.bones), beyond=bones(limb.beyond), still=bones(limb.still))
    pieces = tuple(replace(piece, motion=motion(piece.motion)) for piece in fracture.pieces)
    return turned, replace(fracture, pieces=pieces, beyond=motion(fracture.beyond))


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Where the limb lies in the picture: (u, v) = `axes` · (x, y) + `origin`.

    x and y run over [-1, 1] from left to right and from top to bottom.
    """

    axes: npt.NDArray[np.float64]
    origin: npt.NDArray[np.float64]
    size_px: int

    def coordinates(self, rows: slice, columns: slice) -> tuple[Field, Field]:
        """Limb coordinates (u, v) of the pixel centres of a window."""
        at = ((np.arange(self.size_px) + 0.5) * (2.0 / self.size_px) - 1.0).astype(np.float32)
        x, y = at[None, columns], at[rows, None]
        (ux, uy), (vx, vy) = self.axes.tolist()
        u0, v0 = self.origin.tolist()
        return ux * x + uy * y + u0, vx * x + vy * y + v0

    def window(self, u: Field, v: Field) -> tuple[slice, slice]:
        """Rows and columns of the box that holds the given points of the limb; empty if none is in sight."""
        xy = np.linalg.solve(self.axes, np.stack([u, v]) - self.origin[:, None])
        low = np.clip((xy.min(axis=1) + 1.0) * self.size_px / 2.0 - 1.0, 0, self.size_px).astype(int)
        high = np.clip((xy.max(axis=1) + 1.0) * self.size_px / 2.0 + 2.0, 0, self.size_px).astype(int)
        return slice(low[1], high[1]), slice(low[0], high[0])


def _frame(rng: np.random.Generator, bone: Bone, site_u: float, size_px: int) -> Frame:
    """A pose that has the site of the fracture somewhere in the middle of the picture."""
    tilt_deg = rng.normal(0.0, 9.0) if rng.random() < 0.85 else rng.uniform(-90.0, 90.0)
    turn_rad = math.radians(tilt_deg) + (math.pi if rng.random() < 0.3 else 0.0)
    sin, cos = math.sin(turn_rad), math.cos(turn_rad)
    mirror, zoom = float(rng.choice((-1.0, 1.0))), rng.uniform(1.15, 1.5)
    axes = np.array([[sin, cos], [mirror * cos, -mirror * sin]]) / zoom
    origin = np.array([site_u + rng.uniform(-0.25, 0.25), 0.6 * bone.centre + rng.uniform(-0.12, 0.12)])
    return Frame(axes=axes, origin=origin, size_px=size_px)


def _attenuation(rng: np.random.Generator, frame: Frame, limb: Limb, fracture: Fracture, texture: Field) -> Field:
    """What the ray to each pixel has passed; 1 is about the middle of a long bone with its flesh."""
    attenuation = _flesh(rng, frame, limb)
    unbroken = Fracture(site_u=0.0, pieces=(Piece(keep=everything),))
    carried = replace(unbroken, pieces=(Piece(keep=everything, motion=fracture.beyond),))
    canal = replace(unbroken, thinning=limb.canal)
    states = [(bone, unbroken) for bone in limb.still] + [(bone, carried) for bone in limb.beyond]
    for index, bone in enumerate(limb.bones):
        states.append((bone, fracture if index == limb.broken else canal))
    for bone, state in states:
        _add_bone(attenuation, frame, bone, state, texture, 0.62 / limb.bones[0].half_width)
    return attenuation


def _flesh(rng: np.random.Generator, frame: Frame, limb: Limb) -> Field:
    """Soft tissue with its folds, at times in a cast."""
    whole = slice(0, frame.size_px)
    u, v = frame.coordinates(whole, whole)
    clouds = _clouds(rng, 7, frame.size_px)
    before, at_joint, after = limb.flesh
    width = at_joint + (before - at_joint) * smooth_step(-u) + (after - at_joint) * smooth_step(u)
    across = (v + 0.03 * np.sin(3.0 * u)) / (width + 0.012 * clouds)
    depth = np.sqrt(np.maximum(1.0 - across * across, 0.0))
    flesh = depth * (0.5 + 0.03 * clouds) + 0.1 * above(1.0 - np.abs(across), 0.05)
    if rng.random() < 0.12:
        cast = np.sqrt(np.maximum(1.0 - across * across / 1.5, 0.0)) - 0.8 * depth
        flesh = flesh + cast * (0.4 + 0.05 * _clouds(rng, 40, frame.size_px))
    for _ in range(int(rng.integers(0, 3))):
        slant = rng.uniform(-0.5, 0.5)
        fold = v - rng.uniform(-0.4, 0.4) * width - slant * (u - float(frame.origin[0]))
        flesh = flesh + rng.uniform(0.02, 0.06) * depth * above(fold + 0.03 * clouds, 0.01)
    return np.asarray(flesh, dtype=np.float32)


def _add_bone(attenuation: Field, frame: Frame, bone: Bone, fracture: Fracture, texture: Field, gain: float) -> None:
    """Adds what the pieces of a bone absorb to `attenuation`, in place."""
    for piece in fracture.pieces:
        low, high = piece.span or (bone.start, bone.end)
        low, high = max(low, bone.start) - 0.1, min(high, bone.end) + 0.1
        left, right = bone.centre - bone.reach, bone.centre + bone.reach
        box = np.array([[low, low, high, high], [left, right, left, right]], dtype=np.float32)
        rows, columns = frame.window(*piece.motion.apply(box[0], box[1]))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        u, v = piece.motion.undo(*frame.coordinates(rows, columns))
        cortex, spongy, q = bone.paths(u, v)
        # % wraps the periodic texture round, negative cells too.
        row = (u * TEXTURE_CELLS_PER_UNIT).astype(int) % TEXTURE_CELLS
        grain = texture[row, (v * TEXTURE_CELLS_PER_UNIT).astype(int) % TEXTURE_CELLS]
        absorbed = cortex * (1.0 + 0.05 * grain) + spongy * (1.0 + 0.2 * grain)
        if fracture.thinning is not None:
            absorbed = absorbed * fracture.thinning(u, q)
        attenuation[rows, columns] += gain * absorbed * piece.keep(u, q)


def _expose(rng: np.random.Generator, attenuation: Field) -> npt.NDArray[np.uint8]:
    """Scatter, quantum noise, film curve, collimation, letters and blur."""
    size_px = attenuation.shape[0]
    at = np.linspace(-1.0, 1.0, size_px, dtype=np.float32)
    heel_rad, heel = rng.uniform(0.0, 2.0 * math.pi), rng.uniform(0.0, 0.14)
    signal = attenuation + heel * (math.cos(heel_rad) * at[None, :] + math.sin(heel_rad) * at[:, None])
    coarse = Image.fromarray(signal).resize((12, 12), Image.Resampling.BOX)
    signal = signal + rng.uniform(0.05, 0.25) * _resized(np.asarray(coarse), size_px)
    # A stream of its own: how much noise is drawn depends on the size, and the rest of the scene must not.
    noise = rng.spawn(1)[0].standard_normal((size_px, size_px), dtype=np.float32)
    signal = signal + rng.uniform(0.02, 0.06) * noise * np.exp(0.3 * signal)

    contrast, middle = rng.uniform(1.9, 3.2), rng.uniform(0.9, 1.25)
    value = 1.0 / (1.0 + np.exp(-contrast * (signal - middle)))
    air = 0.7 / (1.0 + math.exp(contrast * middle))
    black, white = rng.uniform(0.0, 0.1), rng.uniform(0.85, 1.0)
    value = np.clip((value - air) / (0.97 - air), 0.0, 1.0) ** rng.uniform(0.7, 1.0)
    value = black + (white - black) * value
    if rng.random() < 0.6:
        value = value * (0.03 + 0.97 * _collimation(rng, at))
    picture = Image.fromarray((value * 255.0).astype(np.uint8))
    _burn_in(rng, picture)
    blur_px = rng.uniform(0.45, 0.8) * size_px / 256.0
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(blur_px)))


def _collimation(rng: np.random.Generator, at: Field) -> Field:
    """1 in the light field of the tube, 0 outside; a rectangle, a little turned."""
    turn_rad = math.radians(rng.normal(0.0, 3.0))
    sin, cos, aside = math.sin(turn_rad), math.cos(turn_rad), rng.uniform(-0.06, 0.06)
    x = cos * at[None, :] + sin * at[:, None] - aside
    y = cos * at[:, None] - sin * at[None, :]
    half_x, half_y = rng.uniform(0.66, 1.0), rng.uniform(0.85, 1.1)
    return np.minimum(above(half_x - np.abs(x), 0.01), above(half_y - np.abs(y), 0.01))


def _burn_in(rng: np.random.Generator, picture: Image.Image) -> None:
    """Writes a side letter, and at times a number, into corners of the picture, in place."""
    pen, size_px = ImageDraw.Draw(picture), picture.width
    words = [str(rng.choice(("L", "R")))] if rng.random() < 0.75 else []
    if rng.random() < 0.4:
        words.append(str(int(rng.integers(10, 10000))))
    tops = rng.permutation((0.03, 0.82))
    for word, top in zip(words, tops.tolist(), strict=False):
        height = rng.uniform(0.03, 0.075) * size_px * (1.0 if word in "LR" else 0.6)
        x0 = (float(rng.choice((0.03, 0.7))) + rng.uniform(0.0, 0.12)) * size_px
        y0 = (top + rng.uniform(0.0, 0.1)) * size_px
        ink, width_px = int(rng.integers(170, 256)), max(1, round(height / 8))
        for letter in word:
            for stroke in GLYPHS[letter]:
                corners = [(int(corner[0]), int(corner[1])) for corner in stroke.split()]
                points = [(x0 + x * height / 9.0, y0 + y * height / 9.0) for x, y in corners]
                pen.line(points, fill=ink, width=width_px)
            x0 += 0.8 * height
