"""What happens to pictures on their way through journals and web pages; for tests of the audit and its benchmark."""

import io

import numpy as np
from PIL import Image, ImageDraw


def re_encoded(pixels, quality=40):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="JPEG", quality=quality)
    return np.asarray(Image.open(out))


def resized(pixels, factor=0.45, stretch=1.0):
    height, width = pixels.shape
    size = round(width * factor * stretch), round(height * factor)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def mirrored(pixels):
    return np.ascontiguousarray(pixels[:, ::-1])


def turned(pixels, times=1):
    return np.ascontiguousarray(np.rot90(pixels, times))


def cropped(pixels, left=0.15, top=0.1, right=0.85, bottom=0.8):
    height, width = pixels.shape
    return np.ascontiguousarray(
        pixels[round(top * height) : round(bottom * height), round(left * width) : round(right * width)]
    )


def marked(pixels):
    """With an arrow, letters and a caption below."""
    height, width = pixels.shape
    image = Image.new("L", (width, height + height // 8), 255)
    image.paste(Image.fromarray(pixels))
    draw = ImageDraw.Draw(image)
    x, y = width // 2, height // 2
    draw.line((x - width // 3, y - height // 4, x - 8, y - 6), fill=255, width=max(2, width // 80))
    draw.polygon([(x, y), (x - width // 20, y - 2), (x - 4, y - height // 20)], fill=255)
    draw.text((6, 6), "B  R", fill=255)
    draw.text((6, height + 4), "Figure 3. Fracture.", fill=0)
    return np.asarray(image)


def brightened(pixels):
    return np.clip(255 * (pixels / 255) ** 0.7 * 1.1, 0, 255).astype(np.uint8)


def barred(pixels):
    """Letterboxed, on black."""
    height, width = pixels.shape
    out = np.zeros((height, width * 2), np.uint8)
    out[:, width // 2 : width // 2 + width] = pixels
    return out


def beside(pixels, other):
    """Two pictures in one, with a white line between them."""
    line = np.full((pixels.shape[0], 6), 255, np.uint8)
    return np.concatenate([pixels, line, other], axis=1)


ALL = {
    "equal": np.copy,
    "re-encoded": re_encoded,
    "resized": resized,
    "stretched": lambda pixels: resized(pixels, 0.8, 1.2),
    "mirrored": mirrored,
    "turned by 90": turned,
    "turned by 180": lambda pixels: turned(pixels, 2),
    "turned by 270": lambda pixels: turned(pixels, 3),
    "mirrored and turned": lambda pixels: turned(mirrored(pixels)),
    "cropped": cropped,
    "marked": marked,
    "brightened": brightened,
    "barred": barred,
    "all at once": lambda pixels: re_encoded(brightened(turned(mirrored(resized(cropped(pixels), 0.7)))), 60),
}
