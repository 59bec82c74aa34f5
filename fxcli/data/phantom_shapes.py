"""Bones as hollow tubes, and the four kinds of limb that the phantom builds of them.

Geometry only: how far a ray runs through the wall of a bone and through the spongy bone inside. How bones
break is in phantom_fractures; pose, exposure and letters are in phantom. Both call this module.

Lengths are in limb units: half the side of a picture at zoom 1. `u` runs along the limb towards the joint,
which lies at u = 0; `v` runs across it; `q` is v measured from the axis of a bone in half widths, so that
the outlines of the bone are q = -1 and q = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Field: TypeAlias = npt.NDArray[np.floating]
"""One value per point, float32 wherever it is as large as the picture."""
Mask: TypeAlias = Callable[[Field, Field], Field]
"""(u, q) → factor, about 0 to 1: how much of the bone is there."""

EDGE_SOFTNESS = 0.004


def smooth_step(x: Field) -> Field:
    """0 below 0, 1 above 1, a cubic between."""
    t: Field = np.clip(x, 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t))


def above(distance: Field, softness: float = EDGE_SOFTNESS) -> Field:
    """1 where `distance` (limb units) is positive, 0 where negative, a ramp of `softness` between."""
    present: Field = np.clip(distance / (2.0 * softness) + 0.5, 0.0, 1.0)
    return present


@dataclass(frozen=True, kw_only=True)
class Motion:
    """A rigid motion of a piece of bone: a turn about a pivot, then a shift.

    Attributes:
        pivot: (u, v) of the fixed point of the turn.
        shift: (u, v).
        turn_rad: From u towards v.
    """

    pivot: tuple[float, float] = (0.0, 0.0)
    shift: tuple[float, float] = (0.0, 0.0)
    turn_rad: float = 0.0

    def apply(self, u: Field, v: Field) -> tuple[Field, Field]:
        """Where points of the unbroken bone have gone."""
        cos, sin = math.cos(self.turn_rad), math.sin(self.turn_rad)
        du, dv = u - self.pivot[0], v - self.pivot[1]
        u0, v0 = self.pivot[0] + self.shift[0], self.pivot[1] + self.shift[1]
        return u0 + cos * du - sin * dv, v0 + sin * du + cos * dv

    def undo(self, u: Field, v: Field) -> tuple[Field, Field]:
        """Where points of the picture were in the unbroken bone."""
        cos, sin = math.cos(self.turn_rad), math.sin(self.turn_rad)
        du, dv = u - self.pivot[0] - self.shift[0], v - self.pivot[1] - self.shift[1]
        return self.pivot[0] + cos * du + sin * dv, self.pivot[1] - sin * du + cos * dv


@dataclass(frozen=True, kw_only=True)
class Bone:
    """A tube that widens into closed ends.

    Attributes:
        start: u of the near end; may lie outside the picture.
        end: u of the end at the joint.
        centre: v of the axis in the middle of the bone.
        half_width: Of the shaft.
        flare_start: Half width of the near end, in shaft half widths.
        flare_end: The same at the joint.
        flare_length: Length over which an end widens.
        slope: Drift of the axis in v per u.
        bow: Curvature of the axis.
        skew: Sideways lean of the joint end, in half widths.
        notch: Depth of the hollow in the middle of the joint end, in half widths; negative is a dome.
        cortex: Wall of the shaft, in half widths.
        density: Factor on what it absorbs; below 1 for a bone seen through another.
        plate_u: u of an open growth plate; None in adults.
    """

    start: float
    end: float
    centre: float
    half_width: float
    flare_start: float = 1.5
    flare_end: float = 1.6
    flare_length: float = 0.3
    slope: float = 0.0
    bow: float = 0.0
    skew: float = 0.0
    notch: float = 0.0
    cortex: float = 0.4
    density: float = 1.0
    plate_u: float | None = None

    @property
    def reach(self) -> float:
        """Distance in v from `centre` that surely holds the whole bone."""
        half_length = (self.end - self.start) / 2.0
        widest = self.half_width * (max(self.flare_start, self.flare_end, 1.0) * 1.05 + abs(self.skew))
        return widest + abs(self.bow) * half_length**2 + abs(self.slope) * half_length

    def axis(self, u: Field) -> Field:
        """The axis as v."""
        along = u - (self.start + self.end) / 2.0
        lean = self.skew * self.half_width * self.flared(u)[0]
        return self.centre + self.slope * along + self.bow * along * along + lean

    def half_width_at(self, u: Field) -> Field:
        """Half width without the rounding of the ends."""
        near_end, near_start = self.flared(u)
        waist = self.half_width * (1.0 + 0.03 * np.sin(5.0 * u + 9.0 * self.half_width))
        flare = 1.0 + (self.flare_end - 1.0) * near_end**2 + (self.flare_start - 1.0) * near_start**2
        half: Field = waist * flare
        return half

    def flared(self, u: Field) -> tuple[Field, Field]:
        """How far each point is into the widening of the joint end and of the near end, 0 to 1."""
        into_end = (u - self.end) / self.flare_length + 1.0
        into_start = (self.start - u) / self.flare_length + 1.0
        return np.clip(into_end, 0.0, 1.0), np.clip(into_start, 0.0, 1.0)

    def paths(self, u: Field, v: Field) -> tuple[Field, Field, Field]:
        """How far the ray through each point runs in the bone.

        Returns:
            Cortex, spongy bone (already weighted by its density), and q.
        """
        half = self.half_width_at(u)
        q = (v - self.axis(u)) / half
        end = self.end - self.notch * self.half_width * np.cos(2.6 * q)
        flared = smooth_step(np.maximum(*self.flared(u)))
        wall = self.cortex * half * (1.0 - 0.74 * flared)
        cap = min(self.half_width, 0.3 * (self.end - self.start))
        outer = _chord(u, q * half, half, self.start, end, cap)
        inner = _chord(u, q * half, half - wall, self.start + 0.016, end - 0.016, cap)
        cortex, spongy = outer - inner, inner * (0.1 + 0.2 * flared)
        if self.density != 1.0:
            cortex, spongy = cortex * self.density, spongy * self.density
        if self.plate_u is not None:
            away = (u - self.plate_u - 0.02 * np.cos(3.0 * q)) / 0.016
            cleft = 1.0 - 0.75 * np.exp(-away * away) + 0.3 * np.exp(-((np.abs(away) - 2.2) ** 2))
            cortex, spongy = cortex * cleft, spongy * cleft
        return cortex, spongy, q


def _chord(u: Field, offset: Field, half: Field, start: float, end: Field, cap: float) -> Field:
    """Length of the ray in a solid of half width `half` whose ends are rounded over `cap`."""
    into = np.clip(np.maximum((u - end) / cap, (start - u) / cap) + 1.0, 0.0, 1.0)
    into *= into
    squeeze = 1.0 - into * into
    length: Field = 2.0 * np.sqrt(np.maximum(half * half * squeeze - offset * offset, 0.0))
    return length


def signed(rng: np.random.Generator, low: float, high: float) -> float:
    """Uniform in [low, high], either sign."""
    return float(rng.uniform(low, high) * rng.choice((-1.0, 1.0)))


@dataclass(frozen=True, kw_only=True)
class Limb:
    """The anatomy in a picture; the joint lies at u = 0.

    Attributes:
        bones: On the near side of the joint; the first is the thickest.
        beyond: On the far side; they follow the fracture.
        still: Neighbours that take no part.
        broken: Index in `bones`.
        site_u: Where a fracture of the shaft lies.
        flesh: Half width of the soft tissue at u = -1, 0 and 1.
        canal: The vessel that pierces a shaft, as a factor on its density: a line that is no fracture.
    """

    bones: tuple[Bone, ...]
    beyond: tuple[Bone, ...]
    still: tuple[Bone, ...] = ()
    broken: int = 0
    site_u: float = 0.0
    flesh: tuple[float, float, float]
    canal: Mask | None = None


def draw_limb(rng: np.random.Generator) -> Limb:
    """A limb of a random kind, with the site of its fracture."""
    build = (_forearm, _leg, _knee, _finger)[int(rng.choice(4, p=(0.3, 0.25, 0.25, 0.2)))]
    limb = build(rng)
    bones = limb.bones
    thinner_breaks = build is _forearm and rng.random() < 0.25
    if rng.random() < 0.18:
        away = rng.uniform(0.9, 1.2) * bones[0].half_width
        bones = tuple(replace(bone, plate_u=bone.end - away) for bone in bones)
    site_u = rng.uniform(max(-1.25, bones[0].start + 0.35), -0.35)
    canal = _canal(rng, site_u) if rng.random() < 0.4 else None
    return replace(limb, bones=bones, broken=int(thinner_breaks), site_u=site_u, canal=canal)


def _canal(rng: np.random.Generator, site_u: float) -> Mask:
    """A short dark line with bright borders, slanting through one wall."""
    at_u, side = site_u + signed(rng, 0.2, 0.5), float(rng.choice((-1.0, 1.0)))
    slope, length = signed(rng, 3.0, 6.0), rng.uniform(0.05, 0.1)

    def thinning(u: Field, q: Field) -> Field:
        away = (side * q - 0.6 - slope * (u - at_u)) / 0.11
        inside = smooth_step((1.0 - np.abs(u - at_u) / length) * 3.0)
        return 1.0 - inside * (0.3 * np.exp(-away * away) - 0.12 * np.exp(-((np.abs(away) - 1.8) ** 2)))

    return thinning


def _shaft(rng: np.random.Generator, **shape: float) -> Bone:
    """A long bone; it starts outside the picture unless `shape`, fields of Bone, says otherwise."""
    chance = {"start": -2.6, "bow": rng.uniform(-0.06, 0.06), "cortex": rng.uniform(0.32, 0.46)}
    return Bone(**(chance | shape))


def _pebble(rng: np.random.Generator, u: float, v: float, radius: float, density: float = 1.0) -> Bone:
    """A short bone of the wrist or ankle."""
    half, long = radius * rng.uniform(0.85, 1.15), radius * rng.uniform(0.9, 1.3)
    ends = {"flare_start": rng.uniform(0.75, 1.1), "flare_end": rng.uniform(0.75, 1.1)}
    lean = {"slope": signed(rng, 0.0, 0.5), "notch": signed(rng, 0.0, 0.25)}
    wall = {"cortex": 0.5, "flare_length": 1.2 * long, "density": density}
    return Bone(start=u - long, end=u + long, centre=v, half_width=half, **ends, **lean, **wall)


def _row(
    rng: np.random.Generator, u: float, across: tuple[float, ...], radius: float, density: float = 0.85
) -> list[Bone]:
    """Pebbles side by side."""
    aside, ahead = (rng.uniform(-0.3, 0.3, (2, len(across))) * radius).tolist()
    return [_pebble(rng, u + a, v + b, radius, density) for v, a, b in zip(across, ahead, aside, strict=True)]


def _rays(rng: np.random.Generator, u: float, across: tuple[float, ...], half: float) -> list[Bone]:
    """The long bones of hand or foot."""
    shape = {"flare_start": 1.5, "flare_end": 1.5, "flare_length": 0.3}
    rays = []
    for v in across:
        start = u + rng.uniform(-0.03, 0.03)
        fan = {"centre": v * 1.35, "slope": v * 0.7, "half_width": half * rng.uniform(0.85, 1.15)}
        rays.append(_shaft(rng, start=start, end=start + 0.9, **fan, **shape))
    return rays


def _forearm(rng: np.random.Generator) -> Limb:
    half, apart = rng.uniform(0.095, 0.12), rng.uniform(0.15, 0.19)
    shape = {"flare_end": rng.uniform(1.9, 2.3), "flare_length": 0.65, "skew": rng.uniform(-0.25, 0.0)}
    radius = _shaft(rng, end=0.0, centre=-apart, half_width=half, notch=rng.uniform(0.0, 0.25), **shape)
    shape = {"flare_end": rng.uniform(1.2, 1.5), "flare_length": 0.3, "notch": rng.uniform(-0.2, 0.2)}
    ulna = _shaft(rng, end=-0.05, centre=apart, half_width=half * rng.uniform(0.7, 0.85), **shape)
    hand = _row(rng, 0.11, (-0.32, -0.14, 0.04, 0.2), 0.085)
    hand += _row(rng, 0.28, (-0.35, -0.19, 0.0, 0.18), 0.09)
    hand += _rays(rng, 0.43, (-0.4, -0.2, -0.03, 0.14, 0.3), 0.055)
    return Limb(bones=(radius, ulna), beyond=tuple(hand), flesh=(0.52, 0.4, 0.62))


def _leg(rng: np.random.Generator) -> Limb:
    half = rng.uniform(0.12, 0.15)
    shape = {"flare_end": rng.uniform(1.6, 1.9), "flare_length": 0.75, "notch": rng.uniform(0.05, 0.2)}
    tibia = _shaft(rng, end=0.0, centre=-0.06, half_width=half, **shape)
    shape = {"flare_end": rng.uniform(1.6, 2.1), "flare_length": 0.45, "notch": -0.3, "cortex": 0.5}
    fibula = _shaft(rng, end=0.2, centre=0.26, half_width=half * rng.uniform(0.42, 0.52), **shape)
    malleolus = _pebble(rng, 0.02, -0.06 - half * 1.4, half * 0.5, 0.7)
    shape = {"flare_start": 0.95, "flare_end": 1.35, "flare_length": 0.3, "notch": -0.2, "cortex": 0.3}
    talus = Bone(start=0.035, end=0.38, centre=-0.05, half_width=half * 1.4, density=0.8, **shape)
    foot = [_pebble(rng, 0.55, rng.uniform(-0.08, 0.1), 0.24, 0.25)]
    foot += _row(rng, 0.5, (-0.25, -0.04, 0.2), 0.14, 0.5)
    foot += _rays(rng, 0.62, (-0.3, -0.15, 0.0, 0.13, 0.25), 0.05)
    return Limb(bones=(tibia, fibula), beyond=(talus, *foot, malleolus), flesh=(0.55, 0.4, 0.56))


def _knee(rng: np.random.Generator) -> Limb:
    half = rng.uniform(0.14, 0.175)
    shape = {"flare_end": rng.uniform(2.0, 2.4), "flare_length": 0.75, "notch": rng.uniform(0.15, 0.35)}
    femur = _shaft(rng, end=0.0, centre=0.0, half_width=half, **shape)
    shape = {"flare_start": rng.uniform(2.1, 2.5), "flare_length": 0.7}
    tibia = _shaft(rng, start=0.07, end=2.4, centre=0.0, half_width=half * 0.85, **shape)
    shape = {"flare_start": 1.8, "flare_length": 0.3}
    fibula = _shaft(rng, start=0.33, end=2.4, centre=half * 1.75, half_width=half * 0.35, **shape)
    patella = _pebble(rng, -0.2, rng.uniform(-0.05, 0.05), half * 0.85, 0.25)
    return Limb(bones=(femur,), beyond=(tibia, fibula, patella), flesh=(0.62, 0.5, 0.52))


def _finger(rng: np.random.Generator) -> Limb:
    half, start = rng.uniform(0.1, 0.13), -rng.uniform(1.15, 1.4)
    shape = {"flare_start": rng.uniform(1.6, 2.0), "flare_end": rng.uniform(1.4, 1.7), "flare_length": 0.5}
    shape |= {"start": start, "notch": rng.uniform(0.1, 0.3)}
    phalanx = _shaft(rng, end=0.0, centre=0.0, half_width=half, **shape)
    before = replace(phalanx, start=start - 1.5, end=start - 0.05, half_width=half * 1.1, flare_end=1.9)
    after = replace(phalanx, start=0.04, end=0.04 - 0.72 * start, half_width=half * 0.85, flare_start=1.8)
    still = [before]
    if rng.random() < 0.6:
        aside, shift = signed(rng, 0.48, 0.6), rng.uniform(-0.3, 0.3)
        for bone in (before, phalanx, after):
            still.append(replace(bone, centre=aside, start=bone.start + shift, end=bone.end + shift))
    return Limb(bones=(phalanx,), beyond=(after,), still=tuple(still), flesh=(0.3, 0.28, 0.25))
