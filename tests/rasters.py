"""Pictures by hand, for tests: Pillow writes few of the types that others do, and no false headers."""

import struct
import zlib

import numpy as np
from PIL import Image


def tiff(values, sample_format, order="<", *, deflated=False, photometric=1, planar=1):
    """A TIFF with one strip, by hand: Pillow writes few of the types that others do. A format of None is left out."""
    height, width = values.shape
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    data = zlib.compress(data) if deflated else data
    data += bytes(len(data) % 2)
    tags = [(256, width), (257, height), (258, values.dtype.itemsize * 8), (259, 8 if deflated else 1)]
    tags += [(262, photometric), (273, 8), (277, 1), (278, height), (279, len(data)), (284, planar)]
    tags += [] if sample_format is None else [(339, sample_format)]
    wide = (256, 257, 273, 278, 279)
    entries = b"".join(
        struct.pack(f"{order}HHIL" if tag in wide else f"{order}HHIHxx", tag, 4 if tag in wide else 3, 1, value)
        for tag, value in tags
    )
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return (
        mark + struct.pack(f"{order}L", 8 + len(data)) + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    )


def planes(values, photometric=2, *, deflated=False):
    """A TIFF whose channels, [C, H, W], lie one behind the other, by hand: Pillow writes none. Of two one is alpha."""
    many, height, width = values.shape
    strips = [zlib.compress(plane) if deflated else plane for plane in (plane.tobytes() for plane in values)]
    starts = [8 + len(b"".join(strips[:number])) for number in range(many + 1)]
    ones = {256: width, 257: height, 259: 8 if deflated else 1, 262: photometric, 277: many, 278: height, 284: 2}
    tags = {tag: ("H", [value]) for tag, value in ones.items()} | ({338: ("H", [2])} if many == 2 else {})
    tags |= {258: ("H", [8 * values.dtype.itemsize] * many), 273: ("L", starts[:-1]), 279: ("L", [*map(len, strips)])}
    entries, more = b"", b""
    for tag, (form, cells) in sorted(tags.items()):
        packed = struct.pack(f"<{len(cells)}{form}", *cells)
        place = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack("<L", starts[-1] + len(more))
        more += packed if len(packed) > 4 else b""
        entries += struct.pack("<HHL", tag, 3 if form == "H" else 4, len(cells)) + place
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<L", starts[-1] + len(more)) + b"".join(strips) + more + directory


def png(values, kind, *, size=None, transparent=b""):
    """A PNG of 16 bits (kind 2: RGB, 4: grey with alpha), or of whatever size its header is to claim, by hand."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    width, height = size or values.shape[1::-1]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    out = b"\x89PNG\r\n\x1a\n"
    key = ((b"tRNS", transparent),) if transparent else ()
    for name, data in ((b"IHDR", header), *key, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        out += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return out


def bombs(folder):
    """Small files that claim 60,000 pixels a side, or as many as the format can."""
    side = 60_000
    grey = np.zeros((4, 4), np.uint16)
    (folder / "a.png").write_bytes(png(grey, 0, size=(side, side)))
    data = bytearray(tiff(grey, 1))
    start = struct.unpack_from("<L", data, 4)[0]
    for entry in range(start + 2, start + 2 + 10 * 12, 12):
        if struct.unpack_from("<H", data, entry)[0] in (256, 257, 278):
            struct.pack_into("<L", data, entry + 8, side)
    (folder / "a.tif").write_bytes(data)
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
    (folder / "a.bmp").write_bytes(b"BM" + struct.pack("<IHHI", 1000, 0, 0, 54) + info + bytes(100))
    for suffix, mark, shift, form, sides, options in (
        (".jpg", b"\xff\xc0", 5, ">HH", (side, side), {}),
        (".gif", b"GIF87a", 6, "<HH", (side, side), {}),
        (".webp", b"VP8L", 9, "<L", (16383 | 16383 << 14,), {"lossless": True}),
    ):
        path = folder / f"a{suffix}"
        Image.new("RGB" if suffix == ".webp" else "L", (16, 16)).save(path, **options)
        data = bytearray(path.read_bytes())
        struct.pack_into(form, data, data.find(mark) + shift, *sides)
        path.write_bytes(data)
