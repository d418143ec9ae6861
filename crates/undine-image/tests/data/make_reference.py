"""Writes layouts.json, pixels.json and decode/: what transformers, torchvision and PIL make of sizes, pixels and files.

Needs transformers 5.23, torchvision, torch and Pillow 13. Run it in its own folder.
"""

import io
import json
import random
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps
from transformers.models.lfm2_vl.image_processing_lfm2_vl import Lfm2VlImageProcessor
from transformers.models.lfm2_vl.processing_lfm2_vl import Lfm2VlProcessor

SETTINGS = [
    {},
    {"min_tiles": 1},
    {"min_tiles": 1, "max_tiles": 1},
    {"use_thumbnail": False},
    {"max_pixels_tolerance": 1.5},
    {"max_image_tokens": 128, "min_image_tokens": 32},
    {"min_image_tokens": 256},
    {"max_tiles": 6, "tile_size": 256, "max_image_tokens": 64, "min_image_tokens": 16},
    {"min_tiles": 3, "max_tiles": 16},
    {"min_tiles": 1, "max_tiles": 3},
    {"resample": 3},
]
SIZES = [
    (704, 704), (720, 720), (736, 736), (1024, 977), (1056, 384), (256, 384), (1000, 3000), (1600, 900), (1280, 1024),
    (48, 48), (512, 512), (640, 480), (333, 517), (48, 40), (2, 2), (4000, 3000), (3024, 4032), (1920, 1080), (800, 1000),
    (16, 16), (3000, 300), (300, 3000), (1200, 800), (1024, 1024), (1125, 900), (1111, 1111), (900, 720), (2048, 512),
]


def picture(width, height):
    """The test picture: steps, ramps and folds, from integers alone."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    return ((x * 37 + y * 101 + c * 53 + x * y // 7) % 256).astype(np.uint8)


def make_processor(settings):
    return Lfm2VlImageProcessor(**{"image_mean": [0.5] * 3, "image_std": [0.5] * 3, **settings})


def layouts():
    random.seed(5)
    cases = []
    for settings in SETTINGS:
        processor = make_processor(settings)
        prompt = Lfm2VlProcessor.__new__(Lfm2VlProcessor)
        prompt.image_processor = processor
        sizes = SIZES + [(random.randint(16, 4000), random.randint(16, 4000)) for _ in range(12)]
        for width, height in sizes:
            p = processor
            common = {
                "downsample_factor": p.downsample_factor,
                "max_image_tokens": p.max_image_tokens,
                "encoder_patch_size": p.encoder_patch_size,
            }
            large = p._is_image_too_large(height, width, max_pixels_tolerance=p.max_pixels_tolerance, **common)
            whole = p.smart_resize(height, width, min_image_tokens=p.min_image_tokens, **common)
            grid = None
            if large and not p.min_tiles == p.max_tiles == 1:
                grid = p._get_grid_layout(height, width, p.min_tiles, p.max_tiles, p.tile_size)[:2]
            per_tile, per_whole = prompt._get_image_num_tokens([whole[1], whole[0]])
            tiles = grid[0] * grid[1] if grid else 0
            # For a grid of one tile the reference states the tokens of the whole picture but computes a tile.
            shows_whole = grid is None or (tiles > 1 and p.use_thumbnail)
            tokens = tiles * per_tile + (per_whole if shows_whole else 0)
            cases.append([width, height, grid, whole if shows_whole else None, tokens])
        yield {"settings": settings, "columns": ["width", "height", "grid", "whole", "tokens"], "cases": cases}
        cases = []


def pixels():
    for settings, width, height in [
        ({}, 97, 61), ({}, 640, 480), ({}, 1000, 700), ({"resample": 3}, 97, 61), ({"resample": 3}, 1000, 700),
        ({"resample": 3}, 333, 517), ({"max_tiles": 4}, 2000, 501), ({}, 512, 512), ({}, 256, 300), ({}, 30, 300),
        ({"use_thumbnail": False, "resample": 3}, 1400, 1400),
    ]:
        out = make_processor(settings)(picture(width, height), return_tensors="np")
        tiles = []
        for values, (rows, cols) in zip(out["pixel_values"], out["spatial_shapes"].tolist()):
            bytes_ = np.rint(values[: rows * cols].reshape(-1) * 127.5 + 127.5).astype(np.int64)
            # A step that is prime to the sizes of patches visits every place in one.
            samples = bytes_[:: max(len(bytes_) // 64, 1) | 1]
            tiles.append([rows, cols, int(bytes_.sum()), samples.tolist()])
        yield {"settings": settings, "width": width, "height": height, "tiles": tiles}


def png16(values):
    """PIL writes no 16-bit colour."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def files():
    # Smooth, so that lossy formats differ by rounding alone.
    y, x = np.mgrid[0:24, 0:40]
    smooth = np.stack([x * 6, y * 10, 255 - x * 3 - y * 4], axis=-1).astype(np.uint8)
    rgb = Image.fromarray(smooth)
    opacity = Image.fromarray(((x * 13 + y * 29) % 256).astype(np.uint8))
    rgba = rgb.copy()
    rgba.putalpha(opacity)
    grey = rgb.convert("L")
    la = grey.convert("LA")
    la.putalpha(opacity)

    def save(image, **options):
        buffer = io.BytesIO()
        image.save(buffer, **options)
        return buffer.getvalue()

    def turned(orientation):
        exif = Image.Exif()
        exif[0x0112] = orientation
        return exif

    palette = rgb.quantize(31)
    wide = np.concatenate([smooth, smooth[..., :1]], axis=-1).astype(np.int64) * 257 - 90
    yield "rgb.png", save(rgb, format="PNG")
    yield "rgba.png", save(rgba, format="PNG")
    yield "grey.png", save(grey, format="PNG")
    yield "grey-alpha.png", save(la, format="PNG")
    yield "one-bit.png", save(grey.convert("1"), format="PNG")
    yield "palette.png", save(palette, format="PNG")
    yield "palette-transparent.png", save(palette, format="PNG", transparency=3)
    for channels, name in [(1, "grey"), (3, "rgb"), (4, "rgba")]:
        yield f"{name}-16.png", png16(wide[..., :channels].clip(0, 65535))
    yield "turned.png", save(rgb, format="PNG", exif=turned(6))
    for orientation in range(1, 9):
        yield f"turned-{orientation}.jpg", save(
            rgb, format="JPEG", quality=95, subsampling=0, exif=turned(orientation)
        )
    yield "subsampled.jpg", save(rgb, format="JPEG", quality=90)
    yield "progressive.jpg", save(rgb, format="JPEG", quality=90, progressive=True)
    yield "grey.jpg", save(grey, format="JPEG", quality=90)
    yield "lossless.webp", save(rgba, format="WEBP", lossless=True, exact=True)
    yield "lossy.webp", save(rgb, format="WEBP", quality=90)
    yield "turned.webp", save(rgb, format="WEBP", lossless=True, exif=turned(8))
    yield "two-frames.gif", save(palette, format="GIF", save_all=True, append_images=[grey.quantize(8)])
    yield "rgb.bmp", save(rgb, format="BMP")
    yield "palette.bmp", save(palette, format="BMP")


def decoded():
    for name, data in files():
        with open(f"decode/{name}", "wb") as file:
            file.write(data)
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        if image.mode == "I;16":
            # PIL would cut every value above 255 to white.
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        white = Image.new("RGB", image.size, (255, 255, 255))
        rgba = image.convert("RGBA")
        white.paste(rgba, mask=rgba.getchannel("A"))
        samples = lambda image: np.asarray(image).reshape(-1)[::37].tolist()
        yield {"file": name, "width": image.width, "height": image.height, "samples": samples(image.convert("RGB")),
               "on_white": samples(white)}


for name, cases in [("layouts", layouts()), ("pixels", pixels()), ("decode", decoded())]:
    with open(f"{name}.json", "w") as file:
        lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
        file.write(f"[\n{lines}\n]\n")
