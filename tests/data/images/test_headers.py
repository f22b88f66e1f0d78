"""Small files with costly headers are refused soon; files of programs and cameras are not."""

import struct
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from support.bad_inputs.by_hand import chunk, png, png_header, png_rows, tiff, tiff_entries
from support.bad_inputs.case import RGB, as_pillow_decodes, patches, saved

from featherseg.core.errors import TooLarge
from featherseg.data.images.decoding import EncodedImage, image_size, read_image
from featherseg.data.images.header_limits import MOST_STEPS, SEGMENT_STEPS
from featherseg.data.images.headers import MOST_EXIF, MOST_SEGMENTS, bounded

MANY = 10**9
JPEG, PROGRESSIVE = saved(RGB, "JPEG"), saved(RGB, "JPEG", progressive=True)
EMPTY = b"\xff\xfe\0\2"
"""A comment without a letter: the shortest segment of a JPEG."""
COUNT = MOST_STEPS // SEGMENT_STEPS + 1


class Counted(BytesIO):
    """A file of which so many pieces may be read."""

    left = 5000

    def read(self, size=-1):
        self.left -= 1
        assert self.left >= 0, "the file is gone over again and again"
        return super().read(size)


def segment(number: int, body: bytes) -> bytes:
    """An application's segment of a JPEG."""
    return bytes([0xFF, 0xE0 + number]) + struct.pack(">H", len(body) + 2) + body


def with_segments(segments: bytes, jpeg: bytes = JPEG, place: int = 20) -> bytes:
    """The JPEG with more in its header, as a rule behind its first segment, JFIF."""
    return jpeg[:place] + segments + jpeg[place:]


def strips_of_jpeg(size: tuple[int, int], content: bytes, *changes) -> bytes:
    """Return a (height, width) TIFF of a grey JPEG strip at byte 8; changes replace its entries."""
    entries = {entry[0]: entry for entry in tiff_entries(size, 1, 8, 1, len(content))}
    entries |= {entry[0]: entry for entry in ((259, "short", [7]), *changes)}
    return tiff(list(entries.values()), content)


def directories(count: int, tags: int = 1000) -> bytes:
    """Return a TIFF of many directories of empty tags, 12 bytes apart, which overlap each other."""
    content = bytearray(8 + 12 * (count + tags) + 6)
    content[:8] = b"II*\0\x08\0\0\0"
    for place in range(8, 8 + 12 * count, 12):
        struct.pack_into("<H", content, place, tags)
        struct.pack_into(
            "<I", content, place + 2 + 12 * tags, place + 12 if place < 12 * count - 4 else 0
        )
    return bytes(content)


def pages_of_same_strips(count: int) -> bytes:
    """A TIFF of so many directories, all of which say the same places of MOST_SEGMENTS strips."""
    first = 8 + 4 * MOST_SEGMENTS
    rows = [
        struct.pack("<HHHIII", 1, 273, 4, MOST_SEGMENTS, 8, first + 18 * (page + 1))
        for page in range(count)
    ]
    return b"II*\0" + struct.pack("<I", first) + bytes(4 * MOST_SEGMENTS) + b"".join(rows)


def test_of_strips_that_lie_in_one_place_none_is_gone_over_that_is_not_of_the_image():
    content = b"\xff\xd8" + EMPTY * 100 + b"\xff\xda\0\2"
    many = strips_of_jpeg((64, 64), content, (273, "long", [8] * MOST_SEGMENTS))
    assert bounded(Counted(many), "a.tif", MANY).tell() == 0
    planes = [(277, "short", [2000]), (284, "short", [2]), (273, "long", [8] * 2000)]
    assert bounded(Counted(strips_of_jpeg((64, 64), content, *planes)), "a.tif", MANY).tell() == 0


def test_the_segments_of_all_strips_together_are_bounded():
    places = [8 + 6 * number for number in range(2000)]
    planes = [(277, "short", [2000]), (284, "short", [2]), (273, "long", places)]
    with pytest.raises(TooLarge, match=r"a\.tif is too large: it holds too many segments"):
        bounded(
            BytesIO(strips_of_jpeg((64, 64), (b"\xff\xd8" + EMPTY) * 2000, *planes)), "a.tif", MANY
        )


@pytest.mark.parametrize(
    "between", [b"", b"\0", b"\xff\xff", b"\xff\xd0"], ids=["", "a byte", "fill", "a restart"]
)
def test_a_jpeg_of_more_lines_than_its_strip_is_found_behind_what_libjpeg_passes_over(between):
    lines = saved(Image.new("L", (64, 160)), "JPEG", progressive=True)
    with pytest.raises(TooLarge, match="a JPEG of 160 lines, the limit is 8"):
        bounded(BytesIO(strips_of_jpeg((8, 64), with_segments(between, lines))), "a.tif", MANY)


def test_a_plane_of_more_lines_than_the_image_is_found():
    low, high = (saved(Image.new("L", (64, rows)), "JPEG") for rows in (8, 160))
    planes = [
        (277, "short", [3]),
        (284, "short", [2]),
        (258, "short", [8] * 3),
        (262, "short", [2]),
    ]
    planes += [(273, "long", [8, 8 + len(low), 8]), (279, "long", [len(low), len(high), len(low)])]
    with pytest.raises(TooLarge, match="a JPEG of 160 lines"):
        bounded(BytesIO(strips_of_jpeg((8, 64), low + high, *planes)), "a.tif", MANY)


@pytest.mark.seconds
def test_a_tiff_of_many_strips_or_pages_of_jpeg_is_read():
    pixels = patches(200, 64)
    content = saved(pixels, "TIFF", compression="jpeg", strip_size=3 * 64 * 8)
    assert len(Image.open(BytesIO(content)).tag_v2[273]) == 25
    np.testing.assert_array_equal(read_image(EncodedImage(content)), as_pillow_decodes(content))
    page = Image.fromarray(RGB)
    assert image_size(
        EncodedImage(
            saved(page, "TIFF", compression="jpeg", save_all=True, append_images=[page] * 600)
        )
    )


@pytest.mark.parametrize(
    "content",
    [
        with_segments(EMPTY * COUNT),
        with_segments(b"\0" + EMPTY * COUNT),
        with_segments(b"\xff\xd0" + EMPTY * COUNT),
        with_segments(b"\xff\xd9" + EMPTY * COUNT),
        with_segments(segment(0, b"") * COUNT, PROGRESSIVE, PROGRESSIVE.index(b"\xff\xda")),
        with_segments(segment(2, b"MPF\0") * COUNT),
        with_segments(bytes(MOST_STEPS)),
    ],
    ids=[
        "",
        "behind a byte",
        "behind a restart",
        "behind an end",
        "behind the size",
        "of MPF",
        "bytes between them",
    ],
)
@pytest.mark.filterwarnings("ignore:Image appears to be a malformed MPO")
def test_a_jpeg_of_endless_segments_is_refused(content):
    with Image.open(BytesIO(content)) as image:
        assert image.size == (33, 24)
    with pytest.raises(
        TooLarge,
        match=r"the image is too large: it holds too many segments.*limit is 16,384 segments",
    ):
        image_size(EncodedImage(content))


def test_a_jpeg_of_some_hundred_segments_is_read():
    content = with_segments(
        segment(2, b"ICC_PROFILE\0" + bytes(3000)) * 255 + segment(1, b"http://ns.adobe.com") * 500
    )
    np.testing.assert_array_equal(read_image(EncodedImage(content)), as_pillow_decodes(JPEG))
    padded = with_segments(bytes(2**16))
    np.testing.assert_array_equal(read_image(EncodedImage(padded)), as_pillow_decodes(JPEG))


def in_pieces(block: bytes, count: int) -> bytes:
    """EXIF in so many segments."""
    length = -(-len(block) // count)
    return b"".join(
        segment(1, b"Exif\0\0" + block[at : at + length]) for at in range(0, len(block), length)
    )


def test_exif_in_pieces_is_one_block_as_for_pillow_and_has_few_of_them():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = with_segments(in_pieces(exif.tobytes()[6:], 3))
    assert image_size(EncodedImage(content)) == (33, 24)
    with pytest.raises(TooLarge, match=f"more than {MOST_EXIF} segments of EXIF"):
        image_size(
            EncodedImage(with_segments(segment(1, b"Exif\0\0" + bytes(10)) * (MOST_EXIF + 1)))
        )
    entries = b"".join(struct.pack("<HHII", 1000 + tag, 7, 9000, 8) for tag in range(400))
    bomb = (b"II*\0\x08\0\0\0" + struct.pack("<H", 400) + entries).ljust(9008, b"\0")
    for segments in (in_pieces(bomb, 1), in_pieces(bomb, 3)):
        for jpeg in (JPEG, PROGRESSIVE):
            with pytest.raises(TooLarge, match="tags of 3,600,000 bytes"):
                image_size(EncodedImage(with_segments(segments, jpeg, jpeg.index(b"\xff\xda"))))


@pytest.mark.parametrize(
    "content",
    [
        directories(300),
        with_segments(segment(1, b"Exif\0\0" + directories(300))),
        with_segments(segment(2, b"MPF\0" + directories(150)) * 2),
        png(png_header((24, 33)), png_rows(RGB), before=chunk(b"eXIf", directories(150)) * 2),
        pages_of_same_strips(200),
    ],
    ids=["a TIFF", "EXIF", "MPF twice", "eXIf twice", "places of strips"],
)
def test_tags_that_would_be_gone_over_again_and_again_are_refused_by_their_number(content):
    with pytest.raises(
        TooLarge, match=r"a is too large: it holds .*tags, the limit is .*262,144 tags"
    ):
        bounded(BytesIO(content), "a", MANY)


def test_a_directory_of_many_tags_is_read():
    assert bounded(BytesIO(directories(200)), "a", MANY)
