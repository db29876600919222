"""Near-duplicate photos: perceptual hashes of 256 bits, and the pairs whose hashes hardly differ.

The hash is imagehash's pHash (DCT of the grey photo, 16 x 16 low frequencies against their median;
Zauner 2010). Half of its bits differ between unrelated photos, with a spread of about 8; the same
photo scaled, brightened or saved again differs in a few, cropped or turned by a
hundredth in up to 40; a mirrored one is not recognised. 64 bits, the library's default, tell less: among
microscope photos unrelated pairs come within 14 bits there, and within 90 of 256 here.
"""

from collections.abc import Sequence

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.photos import Photo, load_photo, over_photos

Hashes = NDArray[np.uint64]  # (n, 4)
SIDE = 16  # of the hash, in bits
NEAR = 56  # bits; photos that differ in no more are taken for the same scene
_ROWS = 256  # hashes compared with all others at a time


def hash_image(image: Image.Image) -> Hashes:
    """(4,) the 256 bits of a photo's perceptual hash."""
    small = image.resize((256, 256), Image.Resampling.BOX)  # spares the library's finer filter the photo
    bits = imagehash.phash(small, hash_size=SIDE).hash.ravel()
    return np.packbits(bits).view(np.uint64)


def hash_photos(photos: Sequence[Photo]) -> Hashes:
    """(n, 4) hashes of photos, read on all cores; raises PipelineError for one that cannot be read."""
    hashes = over_photos(lambda photo: hash_image(Image.fromarray(load_photo(photo))), photos, "compare")
    return np.stack(hashes)


def near_pairs(hashes: Hashes, threshold: int = NEAR, others: Hashes | None = None) -> NDArray[np.int64]:
    """(p, 3) row, row, distance of the pairs that differ in at most `threshold` bits, nearest first.

    Pairs within `hashes`, each once, or of a row of `hashes` with one of `others`.
    """
    against = hashes if others is None else others
    found = []
    for start in range(0, len(hashes), _ROWS):
        mine = hashes[start : start + _ROWS]
        distance = np.zeros((len(mine), len(against)), np.int64)
        for word in range(hashes.shape[1]):
            distance += np.bitwise_count(mine[:, None, word] ^ against[None, :, word])
        a, b = np.nonzero(distance <= threshold)
        pairs = np.stack([a + start, b, distance[a, b]], axis=1)
        found.append(pairs if others is not None else pairs[pairs[:, 0] < pairs[:, 1]])
    pairs = np.concatenate([np.empty((0, 3), np.int64), *found])
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0], pairs[:, 2]))]
