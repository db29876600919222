"""Readers of annotation formats, one module each, chosen by a profile's `format`.

A new format is one function and one entry in `READERS`; one that is a CSV needs neither, but the
`columns` of its profile (`csv.py`). A reader returns `Raw`: two lists (or tables) of records,
images `{"id": int | str | None, "file_name", "width", "height", ...}` (more columns with a plain value,
as COCO's `date_captured`, are kept) and boxes `{"id", "image", "label", "x1", "y1", "x2", "y2",
"iscrowd"}`, where `image` is the index of the image's record and the corners are edges in pixels of the
photo; with COCO's "segmentation" where an outline is known. A size that the file does not state is NaN or
0; `dataset.py` reads it from the photo and checks everything alike, whatever the format.
"""

from pipeline.data.formats.coco import read_coco
from pipeline.data.formats.csv import read_csv
from pipeline.data.formats.cvat import read_cvat
from pipeline.data.formats.labelme import read_labelme
from pipeline.data.formats.photos import read_photos
from pipeline.data.formats.voc import read_voc
from pipeline.data.formats.yolo import read_yolo
from pipeline.data.profile import Profile, SplitSpec
from pipeline.data.raw import Reader
from pipeline.errors import PipelineError

READERS: dict[str, Reader] = {
    "coco": read_coco,
    "voc": read_voc,
    "csv": read_csv,
    "yolo": read_yolo,
    "labelme": read_labelme,
    "cvat": read_cvat,
    "photos": read_photos,
}


def find_reader(profile: Profile, spec: SplitSpec) -> Reader:
    """The reader of a split. Raises PipelineError for a format that has none."""
    name = spec.format or profile.format
    if name not in READERS:
        raise PipelineError(
            f"competition '{profile.name}': no reader for format '{name}'; known: {', '.join(READERS)}"
        )
    return READERS[name]
