"""Videos made and read with PyAV alone, beside the code that is tested."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

CONTAINERS = {".mkv": "matroska", ".m4v": "mp4"}


def moving_images(count: int, size: tuple[int, int] = (48, 64)) -> list[np.ndarray]:
    """RGB images with a bright block that moves; broad patches, so that encoders keep them well."""
    rng = np.random.default_rng(7)
    ground = (
        rng.integers(0, 200, (size[0] // 12 + 1, size[1] // 12 + 1, 3)).repeat(12, 0).repeat(12, 1)
    )
    images = []
    for number in range(count):
        image = ground[: size[0], : size[1]].astype(np.uint8)
        image[:12, (3 * number) % max(size[1] - 12, 1) :][:, :12] = (250, 240, 10)
        images.append(image)
    return images


def write_video(
    path: Path,
    images: Sequence[np.ndarray],
    *,
    codec: str = "mpeg4",
    rate: Fraction | int = 25,
    times: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    pixels: str = "yuv420p",
    turn: tuple[int, bool] | None = None,
    pixel_shape: Fraction = Fraction(1),
    sound: bool = False,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write images (H, W, 3) as a video at `times` in `time_base`; turn: (degrees, mirrored)."""
    base = time_base or 1 / Fraction(rate)
    with av.open(
        str(path),
        "w",
        format=CONTAINERS.get(path.suffix, path.suffix[1:]),
        options=container_options or {},
    ) as container:
        stream = container.add_stream(
            codec, rate=rate, options={"qmin": "1", "qmax": "2"} if codec == "mpeg4" else {}
        )
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pixels
        stream.codec_context.time_base, stream.time_base = base, base
        stream.codec_context.sample_aspect_ratio = pixel_shape
        if turn:
            stream.set_display_rotation(turn[0], hflip=turn[1])
        other = container.add_stream("aac", rate=44100) if sound else None
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number if times is None else times[number], base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if other:
            tone = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
            )
            tone.sample_rate, tone.pts = 44100, 0
            container.mux(other.encode(tone))
            container.mux(other.encode())
    return path


def read_video(path: Path) -> tuple[list[np.ndarray], list[Fraction]]:
    """The frames as RGB and when each is shown, in seconds."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        return [frame.to_ndarray(format="rgb24") for frame in frames], [
            frame.pts * frame.time_base for frame in frames
        ]


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Mean absolute difference, in levels of 255."""
    return float(np.abs(first.astype(float) - second).mean())
