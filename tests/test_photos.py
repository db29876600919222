"""Photos: decoded to the size that the annotations state, whatever the file is like; originals stay."""

import contextlib
import os
import struct

import competitions
import numpy as np
import pydicom
import pytest
import tiny
from PIL import Image, ImageFile
from tiny import HEIGHT, WIDTH

from pipeline.data.dataset import load_dataset
from pipeline.data.findings import Findings
from pipeline.data.photos import (
    EXIF_ORIENTATION,
    Photo,
    check_photos,
    load_photo,
    photo_size,
    photos_of,
    stage_photos,
    staged_suffix,
)
from pipeline.data.profile import load_profile
from pipeline.errors import PipelineError

# What a viewer does to the stored pixels for each EXIF orientation (EXIF 2.3, tag 0x0112).
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: np.rot90(a),
}
TURNED = "photos with an EXIF rotation turned upright"
DEEP = "photos of more than 8 bits of grey, spread from darkest to brightest over 8 bits"


def rotated(path, orientation, **options):
    """Write a photo of WIDTH x HEIGHT stored pixels with an EXIF orientation; returns its pixels."""
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    tiny.write_photo(path, exif=exif, **options)
    return np.asarray(Image.open(path))


def check(*photos):
    findings = Findings("photos")
    return check_photos(photos, findings), findings.kinds


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_rotation_is_undone_when_that_gives_the_stated_size(tmp_path, orientation):
    path = tmp_path / "a.png"
    stored = rotated(path, orientation)
    expected = UPRIGHT[orientation](stored)
    photo = Photo(path, expected.shape[1], expected.shape[0])
    np.testing.assert_array_equal(load_photo(photo), expected)
    repaired, kinds = check(photo)
    assert kinds == ({} if orientation == 1 else {TURNED: ["a.png"]})
    assert repaired == (set() if orientation == 1 else {path})


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_exif_rotation_that_contradicts_the_stated_size_is_left(tmp_path, orientation):
    path = tmp_path / "a.png"
    stored = rotated(path, orientation)
    photo = Photo(path, WIDTH, HEIGHT)
    np.testing.assert_array_equal(load_photo(photo), stored)
    kind = "photos whose EXIF rotation contradicts the stated size, left unturned"
    assert check(photo) == ({path}, {kind: ["a.png"]})


@pytest.mark.parametrize(
    ("kind", "count", "value"),  # of a tag: 2 a text, 3 whole numbers, 5 a fraction, 7 bytes
    [
        (3, 1, b"\0\0\0\0"),
        (3, 1, b"\t\0\0\0"),
        (2, 2, b"6\0\0\0"),
        (7, 1, b"\6\0\0\0"),
        (5, 1, b"\xff" * 4),
    ],
)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_an_exif_orientation_that_means_nothing(tmp_path, kind, count, value, suffix):
    path = tmp_path / f"a{suffix}"
    entry = struct.pack("<HHHI", 1, EXIF_ORIENTATION, kind, count) + value
    tiny.write_photo(path, exif=b"Exif\0\0II*\0\x08\0\0\0" + entry + b"\0\0\0\0")
    photo, stored = Photo(path, WIDTH, HEIGHT), np.asarray(Image.open(path))
    np.testing.assert_array_equal(load_photo(photo), stored)
    assert photo_size(path) == (WIDTH, HEIGHT) and check(photo) == (set(), {})


def test_exif_that_cannot_be_read(tmp_path):
    path = tmp_path / "a.jpg"
    tiny.write_photo(path, exif=b"Exif\0\0no TIFF header")
    assert photo_size(path) == (WIDTH, HEIGHT) and check(Photo(path, WIDTH, HEIGHT)) == (set(), {})


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_a_tiff_is_turned_once(tmp_path, orientation, mode):
    """Pillow turns a TIFF itself, and states its size as it will be."""
    path = tmp_path / "a.tif"
    stored = np.arange(WIDTH * HEIGHT, dtype=np.uint16).reshape(HEIGHT, WIDTH)
    if mode == "RGB":
        stored = np.stack([stored % 251, stored % 13, stored % 7], axis=2).astype(np.uint8)
    Image.fromarray(stored).save(path, tiffinfo={EXIF_ORIENTATION: orientation})
    grey = np.round(stored.astype(float) * (255 / stored.max())).astype(np.uint8)
    expected = UPRIGHT[orientation](stored if mode == "RGB" else np.stack([grey] * 3, axis=2))
    size = expected.shape[1::-1]
    assert photo_size(path) == size
    np.testing.assert_array_equal(load_photo(Photo(path, *size)), expected)
    repaired, kinds = check(Photo(path, *size))
    assert kinds == ({TURNED: ["a.tif"]} if orientation != 1 else {DEEP: ["a.tif"]} if mode != "RGB" else {})
    assert repaired == ({path} if kinds else set())


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_photo_that_was_resized_is_scaled_to_the_stated_size(tmp_path, orientation):
    path = tmp_path / "a.jpg"
    rotated(path, orientation)
    stated = (WIDTH * 3, HEIGHT * 3) if orientation == 1 else (HEIGHT * 3, WIDTH * 3)
    photo = Photo(path, *stated)
    assert load_photo(photo).shape == (stated[1], stated[0], 3)
    assert check(photo) == ({path}, {"photos of another size than stated, scaled to it": ["a.jpg"]})


@pytest.mark.parametrize("stated", [(WIDTH, WIDTH), (HEIGHT, WIDTH), (WIDTH, HEIGHT - 2)])
def test_another_shape_is_refused(tmp_path, stated):
    path = tmp_path / "a.jpg"
    tiny.write_photo(path)
    expected = f"a.jpg: is {WIDTH} x {HEIGHT} pixels, the annotations say {stated[0]} x {stated[1]}"
    for read in (load_photo, check):
        with pytest.raises(PipelineError, match=expected):
            read(Photo(path, *stated))


def test_a_stated_size_that_fills_the_memory_is_refused(tmp_path):
    path = tmp_path / "a.jpg"
    tiny.write_photo(path, 60, 60)
    for stretched in (False, True):
        for read in (load_photo, check):
            with pytest.raises(
                PipelineError, match=r"60 x 60 .* 60000 x 60000, the limit is 178,956,970; corr"
            ):
                read(Photo(path, 60_000, 60_000, stretched))


@pytest.mark.parametrize("suffix", [".jpg", ".dcm"])
@pytest.mark.parametrize(
    "error",
    [TypeError("x"), KeyError(7), struct.error, RuntimeError, MemoryError, NotImplementedError, IndexError],
)
def test_whatever_a_decoder_raises_is_one_line(tmp_path, monkeypatch, suffix, error):
    path = tmp_path / f"a{suffix}"
    competitions.write_dicom(path, np.zeros((HEIGHT, WIDTH), np.uint8))

    def decoder(*_, **__):
        raise error

    monkeypatch.setattr(Image, "open", decoder)
    monkeypatch.setattr(pydicom, "dcmread", decoder)
    for read in (load_photo, check, lambda photo: photo_size(photo.path)):
        with pytest.raises(
            PipelineError, match=r"not a readable photo \(\d+ bytes, \w+\); restore it or"
        ) as caught:
            read(Photo(path, WIDTH, HEIGHT))
        assert getattr(caught.value, "kind", "unreadable") == "unreadable"


@pytest.mark.parametrize("suffix", [".jpg", ".dcm"])
def test_a_pipe_is_not_waited_for(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    os.mkfifo(path)
    for read in (load_photo, check, lambda photo: photo_size(photo.path)):
        with pytest.raises(PipelineError, match="no file, but a folder, a pipe or a device"):
            read(Photo(path, WIDTH, HEIGHT))


def test_decoders_print_nothing(tmp_path, capfd):
    """What libjpeg and libtiff say about damaged photos has no name, and is a line more than an error."""
    jpeg, tiff = tmp_path / "a.jpg", tmp_path / "a.tif"
    tiny.write_photo(jpeg, 301, 203, quality=95)
    data = bytearray(jpeg.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 9] = b"\xfe" * 9
    jpeg.write_bytes(data)
    load_photo(Photo(jpeg, 301, 203))
    tiny.write_photo(tiff, compression="tiff_lzw")
    samples = struct.pack("<HHII", 277, 3, 1, 3)
    for old, new in ((samples, struct.pack("<HHII", 277, 3, 1, 279)), (b"\x80\x17", b"\xff\xff")):
        tiny.write_photo(tiff, compression="tiff_lzw")
        assert old in tiff.read_bytes()
        tiff.write_bytes(tiff.read_bytes().replace(old, new))
        with contextlib.suppress(PipelineError):
            load_photo(Photo(tiff, WIDTH, HEIGHT))
    assert capfd.readouterr() == ("", "")
    os.write(2, b"seen")
    assert capfd.readouterr().err == "seen"


def damaged(path, damage):
    tiny.write_photo(path, quality=95) if path.suffix == ".jpg" else tiny.write_photo(path)
    if damage == "zero bytes":
        path.write_bytes(b"")
    elif damage == "cut":
        tiny.cut_in_half(path)
    elif damage == "text":
        path.write_text("<html>404</html>")
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.unlink()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("zero bytes", r"not a readable photo \(zero bytes\); restore it or take its image out"),
        ("cut", r"not a readable photo \(\d+ bytes, .*\); restore it or"),
        ("text", r"not a readable photo \(16 bytes, "),
        ("folder", "not a readable photo"),
        ("missing", "no such photo; restore it"),
    ],
)
def test_a_photo_that_cannot_be_read(tmp_path, suffix, damage, message):
    path = tmp_path / f"a{suffix}"
    damaged(path, damage)
    for read in (load_photo, check):
        with pytest.raises(PipelineError, match=message) as error:
            read(Photo(path, WIDTH, HEIGHT))
        assert "\n" not in str(error.value)


def test_a_photo_that_is_turned_and_cut(tmp_path):
    path = tmp_path / "a.jpg"
    rotated(path, 3, quality=95)
    tiny.cut_in_half(path)
    with pytest.raises(PipelineError, match="not a readable photo"):
        check(Photo(path, WIDTH, HEIGHT))


def test_the_first_bad_photo_is_named_and_the_others_counted(tmp_path):
    photos = []
    for name in "abcd":
        photos.append(Photo(tmp_path / f"{name}.jpg", WIDTH, HEIGHT))
        tiny.write_photo(photos[-1].path)
    for name in "bcd":
        (tmp_path / f"{name}.jpg").write_bytes(b"")
    with pytest.raises(PipelineError, match=r"b\.jpg: not a readable .* \(and 2 more photos\)$"):
        check(*photos)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (301, 203)])
@pytest.mark.parametrize("missing", [1, 2])
def test_a_jpeg_without_its_end_marker_is_read_and_listed(tmp_path, missing, size, progressive):
    path = tmp_path / "a.jpg"
    tiny.write_photo(path, *size, progressive=progressive)
    photo = Photo(path, *size)
    whole = load_photo(photo)
    assert path.read_bytes()[-2:] == b"\xff\xd9"
    path.write_bytes(path.read_bytes()[:-missing])
    np.testing.assert_array_equal(load_photo(photo), whole)
    assert check(photo) == ({path}, {"photos without an end marker, read as they are": ["a.jpg"]})


@pytest.mark.parametrize("missing", [*range(4, 16), 40, 200])
def test_a_jpeg_that_lacks_a_little_more_is_refused(tmp_path, missing):
    path = tmp_path / "a.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(PipelineError, match="image file is truncated"):
        load_photo(Photo(path, WIDTH, HEIGHT))


def pillows(path):
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (301, 203), (17, 9), (1, 1)])
@pytest.mark.parametrize(
    "options",
    [{}, {"quality": 1}, {"quality": 99, "subsampling": 0}, {"subsampling": 1}, {"restart_marker_blocks": 3}],
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_plain_jpeg_is_what_pillow_reads_without_its_decoding_it(
    tmp_path, monkeypatch, mode, options, size
):
    path = tmp_path / "a.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(pixels).resize((7, 7)).resize(size).convert(mode).save(path, **options)
    expected = pillows(path)
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    np.testing.assert_array_equal(load_photo(Photo(path, *size)), expected)


def test_real_jpegs_are_what_pillow_reads(shared_data):
    paths = sorted(path for path in shared_data.rglob("*.jpg"))[::10]
    assert len(paths) >= 60
    for path in paths:
        expected = pillows(path)
        np.testing.assert_array_equal(load_photo(Photo(path, *expected.shape[1::-1])), expected)


def test_a_jpeg_that_pillow_refuses_is_refused(tmp_path):
    """OpenCV would give its upper part: a table in the midst of the coded data is no table."""
    path = tmp_path / "a.jpg"
    tiny.write_photo(path, 301, 203, quality=95)
    data = bytearray(path.read_bytes())
    middle = (len(data) + data.rindex(b"\xff\xda")) // 2
    data[middle : middle + 4] = b"\xff\xdb\x00\x43"
    path.write_bytes(data)
    with pytest.raises(PipelineError, match="broken data stream"):
        load_photo(Photo(path, 301, 203))


@pytest.mark.parametrize(
    ("mode", "suffix", "is_plain"),
    [
        ("RGB", ".jpg", True),
        ("L", ".jpg", True),
        ("CMYK", ".jpg", False),
        ("RGBA", ".png", False),
        ("P", ".png", False),
        ("LA", ".png", False),
        ("1", ".png", False),
        ("RGB", ".webp", True),
    ],
)
def test_every_colour_mode_gives_rgb(tmp_path, mode, suffix, is_plain):
    path = tmp_path / f"a{suffix}"
    Image.new("RGB", (WIDTH, HEIGHT), "white").convert(mode).save(path)
    photo = Photo(path, WIDTH, HEIGHT)
    pixels = load_photo(photo)
    assert (pixels.shape, pixels.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    assert (pixels == 255).all()
    repaired, kinds = check(photo)
    assert repaired == (set() if is_plain else {path})
    assert kinds == ({} if is_plain else {"photos whose colours are not RGB or grey, converted": [path.name]})


def test_photos_of_a_split_lie_below_the_root(recycle):
    profile = load_profile("recycle")
    photos = photos_of(profile, "train", load_dataset(profile, "train").images)
    assert photos[3] == Photo(recycle / "train" / "0003.jpg", WIDTH, HEIGHT)
    assert check(*photos) == (set(), {})


def test_staging_links_plain_photos_and_copies_repaired_ones(tmp_path):
    plain, turned = Photo(tmp_path / "in/a.JPG", WIDTH, HEIGHT), Photo(tmp_path / "in/b.jpg", HEIGHT, WIDTH)
    tiny.write_photo(tmp_path / "in/a.JPG")
    rotated(turned.path, 6)
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in (plain.path, turned.path)}
    photos = [plain, turned]
    repaired, _ = check(*photos)
    names = [f"{i}{staged_suffix(photo, repaired)}" for i, photo in enumerate(photos)]
    assert names == ["0.jpg", "1.png"]
    out = tmp_path / "out"
    for _ in range(2):  # the same command again
        stage_photos(photos, [out / name for name in names], repaired)
        assert sorted(os.listdir(out)) == names
        assert (out / names[0]).resolve() == plain.path
        copy = out / names[1]
        assert not copy.is_symlink()
        np.testing.assert_array_equal(np.asarray(Image.open(copy)), load_photo(turned))
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in before} == before


def test_staging_again_after_the_data_moved(tmp_path):
    old, new = tmp_path / "old/a.jpg", tmp_path / "new/a.jpg"
    tiny.write_photo(old)
    stage_photos([Photo(old, WIDTH, HEIGHT)], [tmp_path / "out/0.jpg"], set())
    new.parent.mkdir()
    old.rename(new)
    stage_photos([Photo(new, WIDTH, HEIGHT)], [tmp_path / "out/0.jpg"], set())
    assert (tmp_path / "out/0.jpg").resolve() == new
