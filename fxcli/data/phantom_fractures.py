"""The seven ways in which the phantom breaks a bone.

A fracture is the pieces of a bone, where each has gone, and lines or holes that thin the bone. Bones
and the units (u, v, q) are in phantom_shapes; pictures are made in phantom, the only caller.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from fxcli.data.phantom_shapes import EDGE_SOFTNESS, Bone, Field, Mask, Motion, above, signed, smooth_step

Edge: TypeAlias = Callable[[Field], Field]
"""q → u of a line across the bone, or an offset to it."""

STAYS = Motion()


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of a broken bone: which part of the whole, and where it has gone.

    Attributes:
        keep: 1 inside the part.
        motion: Where it has gone.
        span: Range of u that holds the part before the motion, to save time; None is the whole bone.
    """

    keep: Mask
    motion: Motion = STAYS
    span: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Fracture:
    """What has happened to one bone.

    Attributes:
        site_u: The place to look at.
        extent_u: Where along the bone it begins and ends.
        pieces: Together they are the bone.
        thinning: Factor on the bone's density; lines, holes and bands.
        beyond: Motion of what lies on the other side of the joint.
    """

    site_u: float
    extent_u: tuple[float, float] = (0.0, 0.0)
    pieces: tuple[Piece, ...]
    thinning: Mask | None = None
    beyond: Motion = STAYS


def everything(u: Field, q: Field) -> Field:
    """The mask of an unbroken bone."""
    return np.ones_like(u)


def ragged(rng: np.random.Generator, depth: float) -> Edge:
    """A random crooked line: offset (limb units, about ± `depth`) over a position in [-1.2, 1.2]."""
    knots = np.linspace(-1.2, 1.2, 27)
    coarse = np.interp(knots, knots[::3], rng.uniform(-1.0, 1.0, 9))
    height = depth * (coarse + rng.uniform(-0.45, 0.45, knots.size))

    def offset(position: Field) -> Field:
        return np.interp(position, knots, height).astype(np.float32)

    return offset


def _halves(line: Edge, back: Edge, motion: Motion, gap: float, softness: float = EDGE_SOFTNESS) -> tuple[Piece, Piece]:
    """Two pieces, the far one moved; their edge differs on the front and the back wall of the tube."""

    def near(u: Field, q: Field) -> Field:
        return 0.5 * (above(line(q) - u - gap / 2, softness) + above(back(q) - u - gap / 2, softness))

    def far(u: Field, q: Field) -> Field:
        return 0.5 * (above(u - line(q) - gap / 2, softness) + above(u - back(q) - gap / 2, softness))

    return Piece(keep=near), Piece(keep=far, motion=motion)


def _around(site_u: float, half_length: float) -> tuple[float, float]:
    return site_u - half_length, site_u + half_length


def _avulsion(rng: np.random.Generator, bone: Bone, site_u: float) -> Fracture:
    """A chip pulled off the corner of the joint end."""
    side, half_end = float(rng.choice((-1.0, 1.0))), bone.half_width * bone.flare_end
    lean, size = rng.uniform(0.45, 1.1), rng.uniform(0.3, 0.55) * half_end
    cut = half_end - lean * 0.4 * bone.half_width - size * math.hypot(1.0, lean)
    rough = ragged(rng, 0.012)

    def inside(u: Field, q: Field) -> Field:
        return side * q * half_end + lean * (u - bone.end) - cut + rough(q)

    motion = Motion(
        pivot=(bone.end - 0.3 * bone.half_width, bone.centre + side * half_end * 0.8),
        shift=(rng.uniform(-0.35, 0.3) * size, side * rng.uniform(0.15, 0.6) * size),
        turn_rad=signed(rng, 0.1, 0.7),
    )
    rest = Piece(keep=lambda u, q: above(-inside(u, q)))
    span = (bone.end - 0.45, bone.end + 0.1)
    chip = Piece(keep=lambda u, q: above(inside(u, q) - 0.006), motion=motion, span=span)
    return Fracture(site_u=bone.end - 0.1, extent_u=(bone.end - 0.3, bone.end + 0.05), pieces=(rest, chip))


def _comminuted(rng: np.random.Generator, bone: Bone, site_u: float) -> Fracture:
    """Several fragments, each displaced on its own."""
    half, spread = bone.half_width, rng.uniform(1.1, 2.0) * bone.half_width
    count = int(rng.integers(3, 6))
    places = [(-1.5 * spread, 0.0), (1.5 * spread, 0.0)]
    places += [(rng.uniform(-0.75, 0.75) * spread, rng.uniform(-0.9, 0.9) * half) for _ in range(count)]
    rough = ragged(rng, 0.012)

    def mask_of(index: int) -> Mask:
        def keep(u: Field, q: Field) -> Field:
            bent = u - site_u + rough(q)
            away = [np.hypot(bent - a, q * half - b) for a, b in places]
            nearest_other = np.minimum.reduce([d for i, d in enumerate(away) if i != index])
            return above(nearest_other - away[index] - 0.008)

        return keep

    rest = Motion(
        pivot=(site_u, bone.centre),
        shift=(rng.uniform(-0.05, 0.03), signed(rng, 0.1, 0.6) * half),
        turn_rad=signed(rng, 0.02, 0.16),
    )
    pieces = [Piece(keep=mask_of(0)), Piece(keep=mask_of(1), motion=rest)]
    for i in range(2, count + 2):
        along, across = places[i]
        outwards = math.copysign(rng.uniform(0.0, 0.45) * half, across)
        motion = Motion(
            pivot=(site_u + along, bone.centre + across),
            shift=(rng.uniform(-0.03, 0.03), outwards + rest.shift[1] / 2),
            turn_rad=signed(rng, 0.03, 0.4),
        )
        pieces.append(Piece(keep=mask_of(i), motion=motion, span=(site_u - 2 * spread, site_u + 2 * spread)))
    return Fracture(site_u=site_u, extent_u=_around(site_u, 1.2 * spread), pieces=tuple(pieces), beyond=rest)


def _fracture_dislocation(rng: np.random.Generator, bone: Bone, site_u: float) -> Fracture:
    """A break close to the joint, and joint surfaces that no longer face each other."""
    half_end = bone.half_width * bone.flare_end
    slope, rough = signed(rng, 0.1, 0.7), ragged(rng, 0.018)
    break_u = bone.end - rng.uniform(0.9, 2.0) * bone.half_width

    def line(q: Field) -> Field:
        return break_u + slope * bone.half_width * q + rough(q)

    away = Motion(
        pivot=(bone.end, bone.centre),
        shift=(rng.uniform(-0.12, 0.05), signed(rng, 0.75, 1.3) * half_end),
        turn_rad=signed(rng, 0.08, 0.45),
    )
    share = float(rng.choice((0.1, 0.35)))
    motion = Motion(
        pivot=(break_u, bone.centre),
        shift=(rng.uniform(-0.02, 0.03), away.shift[1] * share),
        turn_rad=away.turn_rad * share + signed(rng, 0.02, 0.12),
    )
    extent_u, pieces = (break_u - 0.1, bone.end + 0.05), _halves(line, line, motion, 0.014)
    return Fracture(site_u=break_u + 0.1, extent_u=extent_u, pieces=pieces, beyond=away)


def _curved(rng: np.random.Generator, bone: Bone, site_u: float) -> Fracture:
    """A line that winds round the shaft (spiral), or crosses it at a slant (oblique)."""
    half, length = bone.half_width, signed(rng, 2.8, 5.0) * bone.half_width
    spiral, rough = rng.random() < 0.65, ragged(rng, 0.012)

    def front(q: Field) -> Field:
        inside = np.clip(q, -1.0, 1.0)
        bend = np.arcsin(inside) * (2.0 / math.pi) if spiral else inside
        return site_u + length / 2 * bend + rough(q)

    def back(q: Field) -> Field:
        inside = np.clip(q, -1.0, 1.0)
        return site_u + length / 2 * inside**3 + rough(q) if spiral else front(q)

    apart = rng.uniform(0.05, 0.45)
    motion = Motion(
        pivot=(site_u, bone.centre),
        shift=(rng.uniform(-0.03, 0.02), signed(rng, 0.1, 1.0) * apart * half),
        turn_rad=signed(rng, 0.0, 0.25) * apart,
    )
    pieces = _halves(front, back, motion, rng.uniform(0.04, 0.07))
    return Fracture(site_u=site_u, extent_u=_around(site_u, abs(length) / 2), pieces=pieces, beyond=motion)


def _linear(rng: np.random.Generator, bone: Bone, site_u: float) -> Fracture:
    """A line along the shaft (longitudinal), or one wall broken, bent and split on (greenstick)."""
    side, half = float(rng.choice((-1.0, 1.0))), bone.half_width
    greenstick, rough = rng.random() < 0.5, ragged(rng, 0.08)
    length = rng.uniform(0.2, 0.32) if greenstick else rng.uniform(0.35, 0.6)
    q_start = side * rng.uniform(-0.1, 0.35) if greenstick else rng.uniform(-0.55, 0.55)
    drift, width = signed(rng, 0.0, 0.2), rng.uniform(0.014, 0.022)
    depth = rng.uniform(0.65, 0.9)
    middle_u = site_u + length * float(rng.choice((-0.8, 0.8))) if greenstick else site_u

    def split(u: Field, q: Field) -> Field:
        along = (u - middle_u) / length
        away = (q - q_start - drift * along - rough(along)) * half / width
        return 1.0 - depth * np.exp(-away * away) * smooth_step((1.0 - np.abs(along)) * 4.0)

    extent_u = (min(middle_u - length, site_u - 0.05), max(middle_u + length, site_u + 0.05))
    if not greenstick:
        return Fracture(site_u=site_u, extent_u=extent_u, pieces=(Piece(keep=everything),), thinning=split)
    crack = ragged(rng, 0.012)

    def line(q: Field) -> Field:
        return site_u + crack(q)

    # Turning about the far wall opens a wedge at the near one.
    hinge = Motion(pivot=(site_u, bone.centre - side * half * 0.8), turn_rad=-side * rng.uniform(0.08, 0.2))
    pieces = _halves(line, line, hinge, 0.0)
    return Fracture(site_u=site_u, extent_u=extent_u, pieces=pieces, thinning=split, beyond=hinge)


def _internal(rng: np.random.Generator, bone: Bone, site_u: float) -> Fracture:
    """Bone that gave way from within: a lytic hole with a break, or ends driven into each other."""
    telescoped = rng.random() < 0.4
    half, rough = bone.half_width, ragged(rng, 0.03 if telescoped else 0.016)
    slope = signed(rng, 0.0, 0.4) * half

    def line(q: Field) -> Field:
        return site_u + slope * q + rough(q)

    motion = Motion(
        pivot=(site_u, bone.centre),
        shift=(-rng.uniform(0.03, 0.075) if telescoped else 0.0, signed(rng, 0.05, 0.25) * half),
        turn_rad=signed(rng, 0.01, 0.1),
    )
    if telescoped:
        extent_u, pieces = _around(site_u, abs(slope) + 0.08), _halves(line, line, motion, 0.0, 0.02)
        return Fracture(site_u=site_u, extent_u=extent_u, pieces=pieces, beyond=motion)
    count = int(rng.integers(6, 11))
    low, high = (-0.9, -0.7, 0.25), (0.9, 0.7, 0.65)
    holes = (rng.uniform(low, high, (count, 3)) * half).tolist()
    depth = rng.uniform(0.3, 0.65)

    def eaten(u: Field, q: Field) -> Field:
        away = [np.hypot(u - site_u - a, q * half - b) / radius for a, b, radius in holes]
        return 1.0 - depth * smooth_step((1.15 - np.minimum.reduce(away)) * 2.2)

    extent_u, pieces = _around(site_u, 1.3 * half), _halves(line, line, motion, 0.006)
    return Fracture(site_u=site_u, extent_u=extent_u, pieces=pieces, thinning=eaten, beyond=motion)


def _hairline(rng: np.random.Generator, bone: Bone, site_u: float) -> Fracture:
    """A faint thin line that starts at one wall and may not reach the other; nothing has moved."""
    side, rough = float(rng.choice((-1.0, 1.0))), ragged(rng, 0.012)
    slope, width = signed(rng, 0.0, 1.0) * bone.half_width, rng.uniform(0.006, 0.009)
    depth, extent = rng.uniform(0.22, 0.42), rng.uniform(1.0, 2.2)

    def crack(u: Field, q: Field) -> Field:
        away = (u - site_u - slope * q - rough(q)) / width
        return 1.0 - depth * np.exp(-away * away) * smooth_step((extent - 1.0 + side * q) * 2.5)

    extent_u = _around(site_u, abs(slope) + 0.05)
    return Fracture(site_u=site_u, extent_u=extent_u, pieces=(Piece(keep=everything),), thinning=crack)


FRACTURES: dict[str, Callable[[np.random.Generator, Bone, float], Fracture]] = {
    "avulsion": _avulsion,
    "comminuted": _comminuted,
    "fracture_dislocation": _fracture_dislocation,
    "curved": _curved,
    "linear": _linear,
    "internal": _internal,
    "hairline": _hairline,
}
"""(rng, bone, site_u) → what happens to it; breaks at the end of the bone ignore `site_u`."""
