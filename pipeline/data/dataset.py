"""One split of a competition: its image table and its annotation table, checked and repaired.

What a box must be, wherever it came from: inside the photo, with an area, and there once. Boxes that
reach outside are clipped, boxes without area, doubled ones and those that lie outside are dropped;
every one of them is listed in `findings`.
"""

import functools
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.boxes import clip
from pipeline.data.findings import MAY_LOSE, Findings
from pipeline.data.formats import find_reader
from pipeline.data.outlines import SEGMENTATION, checked_outlines
from pipeline.data.photos import are_sizes, complete_sizes
from pipeline.data.profile import Profile, SplitSpec, require_root
from pipeline.data.raw import Records
from pipeline.data.specs import Losses
from pipeline.data.text import find_key, forward, leads_outside, plain_numbers, same_text
from pipeline.data.units import doubts_of
from pipeline.errors import PipelineError
from pipeline.paths import shown, text_digest

CORNERS = ["x1", "y1", "x2", "y2"]
ACCEPT = "accept_losses: {{{}: {}, why: ...}} in the profile takes the rest"
MIN_SIDE = 1e-3  # pixels; a thinner box has no area
IMAGE_COLUMNS = ("index", "image_id", "file_id", "file_name", "width", "height", "date_captured")
OUTSIDE = 1e-2  # pixels; corners outside by less are rounding and are clipped without a word


@dataclass(frozen=True)
class Dataset:
    """A split's two tables.

    images: image_id (int32, unique, sorted), file_name, width, height (pixels), date_captured,
        position (of the image in the annotation file), file_id (what the annotation file calls the
        image, which is its image_id where it can be one) and what else the file says of an image.
    annotations: annotation_id, image_id, label (0-based), x1 y1 x2 y2 (float64 pixels), iscrowd;
        with masks also segmentation (see `outlines`); empty for a test split whose truth is not known.
    digest: of the image table; prediction tables and folds carry it.
    """

    split: str
    images: pd.DataFrame
    annotations: pd.DataFrame
    findings: Findings
    digest: str
    category_ids: tuple[Any, ...]  # of the annotation file, in class order


def load_dataset(profile: Profile, split: str, strict: bool = True, masks: bool = False) -> Dataset:
    """Read `train` or `test` of a competition; the test split comes without boxes.

    masks: with the objects' outlines, of which at most a tenth may be missing.

    Raises PipelineError when the data folder or the annotation file is missing or damaged, and, where
    `strict`, when images or more than a tenth of the boxes would be left out or are read in a wrong unit.
    """
    require_root(profile)
    for link in profile.links:
        _note_link(link, link.resolve())
    spec = profile.train if split == "train" or profile.holds_out else profile.test
    try:
        whole = _load(profile, split, spec, strict=strict, masks=masks)
        return _held_out(whole, profile.test.holdout, split) if profile.holds_out else whole
    except UnicodeEncodeError as error:  # bytes of a name that Python shows as half characters
        raise PipelineError(
            f"{shown(profile.path(spec.annotations))}: name {error.object!r}: not a text in Unicode; rename "
            "the file in UTF-8"
        ) from None


@functools.cache
def _note_link(link: Path, target: Path) -> None:
    """Say once where a link of the user leads: data may lie anywhere."""
    print(f"  note: {shown(link)} is a link to {target}")


def load_truth(profile: Profile, split: str) -> Dataset | None:
    """The split with its boxes: train's own, or the test split's where they are known, else None."""
    if split == "train":
        return load_dataset(profile, "train")
    spec, test = profile.test, load_dataset(profile, "test")
    if profile.holds_out:
        truth = _load(profile, "train", profile.train)
    elif spec.truth and profile.path(spec.truth).exists():
        truth_spec = replace(spec, annotations=spec.truth)
        truth = _load(profile, "test", truth_spec, with_boxes=True)
        if truth.digest != test.digest:
            raise PipelineError(f"{profile.path(spec.truth)}: its images are not those of the test set")
    else:
        return None
    boxes = truth.annotations
    boxes = boxes[boxes["image_id"].isin(test.images["image_id"])].reset_index(drop=True)
    return replace(test, annotations=boxes, findings=truth.findings)


def image_digest(images: pd.DataFrame) -> str:
    """Digest of an image table: id, file name and size of each image, in the order of the ids."""
    rows = images.sort_values("image_id")[["image_id", "file_name", "width", "height"]]
    return text_digest("\n".join("\t".join(map(str, row)) for row in rows.itertuples(index=False)))


def ids_of_rows(rows: pd.DataFrame, dataset: Dataset, path: Path) -> NDArray[np.int64]:
    """(n,) image ids of the rows of a table with the column file_name or image_id (the file's own ids).

    Raises PipelineError for a table with neither, and for a row whose image is unknown or there twice.
    """
    key = next((name for name in ("file_name", "image_id") if name in rows), None)
    if key is None:
        raise PipelineError(f"{shown(path)}: header {list(rows.columns)}, expected file_name or image_id")
    images = dataset.images
    called = images["file_name"].map(same_text) if key == "file_name" else images["file_id"]
    known = dict(zip(called.tolist(), images["image_id"].tolist(), strict=True))
    cells = [same_text(forward(cell)) if key == "file_name" else cell for cell in rows[key]]
    found = [cell if key == "file_name" and cell in known else find_key(cell, known) for cell in cells]
    seen: set[Any] = set()
    for number, (cell, name) in enumerate(zip(cells, found, strict=True), start=2):
        if name is None:
            raise PipelineError(
                f"{shown(path)}: row {number}: {key} '{cell}' is not in the {dataset.split} set"
            )
        if name in seen:
            raise PipelineError(f"{shown(path)}: row {number}: {key} '{cell}' is there twice")
        seen.add(name)
    return np.array([known[name] for name in found], np.int64)


def _load(
    profile: Profile,
    split: str,
    spec: SplitSpec,
    with_boxes: bool | None = None,
    strict: bool = True,
    masks: bool = False,
) -> Dataset:
    read = find_reader(profile, spec)
    findings = Findings(spec.annotations)
    known = split == "train" or bool(with_boxes)
    raw = read(profile, spec, findings, known)
    total = len(raw.images) + findings.count_lost("images")
    images = _image_table(raw.images, profile, spec, findings) if len(raw.images) else pd.DataFrame()
    accepted = profile.accept_losses or Losses("")
    remedy = "Restore the photos, state the sizes, or take the images out of the annotations"
    accept = f"; {ACCEPT.format('images', findings.count_lost('images'))}" if known else ""
    findings.refuse_losses("images", total, accepted.images if known else 0, remedy + accept)
    if images.empty and strict:
        findings.check()
    if images.empty:
        raise PipelineError(f"{profile.path(spec.annotations)}: no images in split '{split}'")
    total = len(raw.boxes) + findings.count_lost("boxes")
    boxes = _annotation_table(raw.boxes if known else [], images, findings, masks)
    remedy = f"Correct the annotations; {ACCEPT.format('boxes', findings.count_lost('boxes'))}"
    findings.refuse_losses("boxes", total, max(accepted.boxes, int(MAY_LOSE * total)), remedy)
    objects, lost = int((boxes["iscrowd"] == 0).sum()), findings.count_lost("outlines")
    remedy = f"Outline them, train a model without masks, or {ACCEPT.format('outlines', lost)}"
    findings.refuse_losses("outlines", objects, max(accepted.outlines, int(MAY_LOSE * objects)), remedy)
    if strict:
        findings.check()
    if crowds := int(boxes["iscrowd"].sum()):
        findings.notes.append(
            f"{crowds} of {len(boxes)} boxes are crowds (iscrowd), which no training learns and no score "
            "counts"
        )
    # A test file in another format than train's does not know what train's file calls the classes.
    category_ids = raw.category_ids if spec.format in ("", profile.format) else ()
    category_ids = category_ids or _train_categories(profile)
    images = images.rename(columns={"index": "position"})
    images = images.sort_values("image_id").reset_index(drop=True)
    return Dataset(split, images, boxes, findings, image_digest(images), category_ids)


def _train_categories(profile: Profile) -> tuple[Any, ...]:
    """The class ids of the train file, for a test file that names none."""
    spec = profile.train
    return find_reader(profile, spec)(profile, spec, Findings(spec.annotations)).category_ids


def _image_table(records: Records, profile: Profile, spec: SplitSpec, findings: Findings) -> pd.DataFrame:
    """Records -> table with the record's `index`, which boxes refer to; ids are the file's if integers."""
    images = records.copy() if isinstance(records, pd.DataFrame) else pd.DataFrame.from_records(records)
    images["index"] = np.arange(len(images))
    names = images["file_name"]
    if not profile.outside and (outside := names[names.map(leads_outside)]).size:
        raise PipelineError(
            f"{findings.source}: file name '{outside.iloc[0]}' leads out of the photos' folder; correct it, "
            "or say outside: true in the profile if that is meant"
        )
    stated = _stated_sizes(images[["width", "height"]])
    sizes = complete_sizes(profile, spec, names.tolist(), stated)
    good = are_sizes(sizes)
    read = good & ~are_sizes(stated)
    findings.add("images without a size, read from the photo (file names)", *names[read])
    findings.lose(
        "images", "images without a size and without a photo that has one refused (file names)", *names[~good]
    )
    images = images[good].copy()
    images[["width", "height"]] = sizes[good].astype(np.int32)
    doubled = images["file_name"].map(same_text).duplicated()
    if doubled.any():
        raise PipelineError(
            f"{findings.source}: file name '{images.loc[doubled, 'file_name'].iloc[0]}' is there twice"
        )
    own = images["id"].map(lambda v: isinstance(v, (int, np.integer)) and 0 <= v < 2**31)
    if own.all():
        images["image_id"] = images["id"].astype("int32")
    else:  # the position by sorted file name
        images["image_id"] = images["file_name"].rank(method="first").astype("int32") - 1
    images["file_id"] = images["image_id"] if images["id"].isna().all() else images["id"]
    if "date_captured" not in images:
        images["date_captured"] = None
    more = [name for name in images if name not in (*IMAGE_COLUMNS, "id", "position")]
    return images[[*IMAGE_COLUMNS, *more]]


def _stated_sizes(cells: pd.DataFrame) -> NDArray[np.float64]:
    """(images, 2) widths and heights, NaN for what is no number."""
    if not cells.dtypes.map(pd.api.types.is_float_dtype).all():
        cells = cells.map(lambda cell: (plain_numbers([cell]) or [np.nan])[0])
    return cells.to_numpy(np.float64)


def _annotation_table(
    records: Records, images: pd.DataFrame, findings: Findings, masks: bool
) -> pd.DataFrame:
    more = [SEGMENTATION] * masks
    boxes = pd.DataFrame(records, columns=["id", "image", "label", *CORNERS, "iscrowd", *more])
    refused = ~boxes["image"].isin(images["index"])
    findings.lose("boxes", "boxes of refused images dropped (ids)", *boxes.loc[refused, "id"])
    known = images[["index", "image_id", "width", "height"]]
    boxes = boxes.merge(known, left_on="image", right_on="index", how="inner", sort=False)
    finite = np.isfinite(boxes[CORNERS].to_numpy(np.float64)).all(axis=1)
    findings.lose("boxes", "boxes whose corners no number holds dropped (ids)", *boxes.loc[~finite, "id"])
    boxes = boxes[finite]
    raw = boxes[CORNERS].to_numpy(np.float64)
    size = boxes[["width", "height"]].to_numpy(np.float64)
    findings.refusals += doubts_of(raw, size)
    clipped = clip(raw, size[:, 0], size[:, 1])
    sides = raw[:, 2:] - raw[:, :2]
    flat = (sides < MIN_SIDE).any(axis=1)
    gone = ~flat & ((clipped[:, 2:] - clipped[:, :2]) < MIN_SIDE).any(axis=1)
    cut = ~flat & ~gone & (np.abs(clipped - raw) > OUTSIDE).any(axis=1)
    ids = boxes["id"].to_numpy()
    findings.lose("boxes", "boxes without area dropped (ids)", *ids[flat])
    findings.lose("boxes", "boxes outside the photo dropped (ids)", *ids[gone])
    findings.add("boxes that reach outside clipped (ids)", *ids[cut])
    boxes[CORNERS] = clipped
    boxes = boxes[~flat & ~gone]
    doubled = boxes.duplicated(["image_id", "label", *CORNERS])
    findings.add("doubled boxes dropped (ids)", *boxes.loc[doubled, "id"])
    boxes = boxes[~doubled].sort_values("image_id", kind="stable").reset_index(drop=True)
    if masks:
        boxes[SEGMENTATION] = checked_outlines(boxes, findings)
    boxes = boxes.rename(columns={"id": "annotation_id"})
    boxes = boxes[["annotation_id", "image_id", "label", *CORNERS, "iscrowd", *more]]
    return boxes.astype({"image_id": "int32", "label": "int16", "iscrowd": "int8"})


def _held_out(whole: Dataset, share: float, split: str) -> Dataset:
    """Split train by a hash of each file name, for competitions whose test set is not at hand."""
    chance = whole.images["file_name"].map(lambda name: zlib.crc32(name.encode()) / 2**32)
    images = whole.images[(chance < share) == (split == "test")].reset_index(drop=True)
    boxes = whole.annotations[whole.annotations["image_id"].isin(images["image_id"])]
    if split == "test":
        boxes = boxes.iloc[:0]
    whole.findings.notes.append(
        f"no test set there: {share:.0%} of these photos serve as one; {split} has {len(images)} of "
        f"{len(whole.images)}"
    )
    return replace(
        whole,
        split=split,
        images=images,
        annotations=boxes.reset_index(drop=True),
        digest=image_digest(images),
    )
