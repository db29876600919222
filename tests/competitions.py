"""Tiny data folders in the published formats of the competitions, as their own files look."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tiny

SIDE = 1024


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def write_dicom(path: Path, pixels: np.ndarray, kind: str = "MONOCHROME2", **tags: Any) -> Path:
    """A DICOM file of one grey picture with 8 or 16 bits."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, kind, 0
    bits = 8 * pixels.itemsize
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    for name, value in tags.items():
        setattr(data, name, value)
    data.PixelData = pixels.tobytes()
    data.save_as(path, enforce_file_format=True)
    return path


def wheat(root: Path) -> None:
    write(
        root / "train.csv",
        "image_id,width,height,bbox,source",
        'b6ab77fd7,1024,1024,"[834.0, 222.0, 56.0, 36.0]",usask_1',
        'b6ab77fd7,1024,1024,"[226.0, 548.0, 130.0, 58.0]",usask_1',
        'f5a1f0358,1024,1024,"[0.0, 1.5, 10.0, 20.0]",arvalis_1',
    )
    write(
        root / "sample_submission.csv",
        "image_id,PredictionString",
        "aac893a91,1.0 0 0 50 50",
        "51f1be19e,1.0 0 0 50 50",
        "f5a1f0359,1.0 0 0 50 50",
    )


def rsna(root: Path) -> None:
    write(
        root / "stage_2_train_labels.csv",
        "patientId,x,y,width,height,Target",
        "0004cfab-14fd,,,,,0",
        "00436515-870c,264.0,152.0,213.0,379.0,1",
        "00436515-870c,562.0,152.0,256.0,453.0,1",
    )
    write(
        root / "stage_2_sample_submission.csv",
        "patientId,PredictionString",
        *(f"{i},0.5 0 0 100 100" for i in ("0000a175-0e68", "0005d3cc-3c3f", "000686d7-f4fc")),
    )


def vinbigdata(root: Path) -> None:
    write(
        root / "train.csv",
        "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max",
        "50a418190bc3,No finding,14,R11,,,,",
        "9a5094b2563a,Cardiomegaly,3,R10,691.0,1375.0,1653.0,1831.0",
        "9a5094b2563a,Aortic enlargement,0,R9,1264.0,743.0,1611.0,1019.0",
    )
    write(root / "train_meta.csv", "image_id,dim0,dim1", "50a418190bc3,2580,2332", "9a5094b2563a,3159,2954")
    write(
        root / "sample_submission.csv",
        "image_id,PredictionString",
        "002a34c58c5b,14 1 0 0 1 1",
        "004f33259ee4,14 1 0 0 1 1",
        "008bdde2af2a,14 1 0 0 1 1",
    )
    write(
        root / "test_meta.csv",
        "image_id,dim0,dim1",
        *(f"{i},1024,1024" for i in ("002a34c58c5b", "004f33259ee4", "008bdde2af2a")),
    )


def siim(root: Path) -> None:
    write(
        root / "train_image_level.csv",
        "id,boxes,label,StudyInstanceUID",
        "000a312787f2_image,\"[{'x': 789.28836, 'y': 582.43035, 'width': 1026.65662, "
        "'height': 1917.30292}, {'x': 2245.91208, 'y': 591.20528, 'width': 1094.66162, "
        "'height': 1761.54944}]\",opacity 1 789.28836 582.43035 1815.94498 2499.73327 "
        "opacity 1 2245.91208 591.20528 3340.5737 2352.75472,5776db0cec75",
        "000c3a3f293f_image,,none 1 0 0 1 1,ff0879eb20ed",
    )
    write(
        root / "train_study_level.csv",
        "id,Negative for Pneumonia,Typical Appearance,Indeterminate Appearance,Atypical Appearance",
        "00086460a852_study,0,1,0,0",
    )
    write(
        root / "sample_submission.csv",
        "Id,PredictionString",
        "00188a671292_study,negative 1 0 0 1 1",
        "004bd59708be_study,negative 1 0 0 1 1",
        "65761e66de9f_image,none 1 0 0 1 1",
        "51759b5579bc_image,none 1 0 0 1 1",
        "c7c3c1a5c2f4_image,none 1 0 0 1 1",
    )
    write(
        root / "studies.csv",
        "Id,PredictionString",
        "004bd59708be_study,negative 0.25 0 0 1 1 typical 0.75 0 0 1 1",
    )
    write(
        root / "meta.csv",
        "image_id,dim0,dim1",
        "000a312787f2,3488,4256",
        "000c3a3f293f,2320,2832",
        *(f"{i},1024,1024" for i in ("65761e66de9f", "51759b5579bc", "c7c3c1a5c2f4")),
    )


def reef(root: Path) -> None:
    head = "video_id,sequence,video_frame,sequence_frame,image_id"
    write(
        root / "train.csv",
        head + ",annotations",
        "0,40258,0,0,0-0,[]",
        "0,40258,16,16,0-16,\"[{'x': 559, 'y': 213, 'width': 50, 'height': 32}]\"",
        "0,40258,17,17,0-17,\"[{'x': 558, 'y': 213, 'width': 50, 'height': 32}, "
        "{'x': 1, 'y': 2, 'width': 3, 'height': 4}]\"",
    )
    write(root / "test.csv", head, "3,996,0,0,3-0", "3,996,1,1,3-1", "3,996,2,2,3-2")


def openimages(root: Path) -> None:
    write(
        root / "challenge-2019-classes-description-500.csv",
        "/m/061hd_,Infant bed",
        "/m/06m11,Rose",
        "/m/03120,Flag",
    )
    write(
        root / "challenge-2019-train-detection-bbox.csv",
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,"
        "IsDepiction,IsInside",
        "000002b66c9c498e,xclick,/m/06m11,1,0.0125,0.195312,0.148438,0.5875,0,1,0,0,0",
        "000002b66c9c498e,xclick,/m/03120,1,0.5,1,0.25,0.75,1,0,1,0,0",
        "000002b97e5471a0,xclick,/m/0dog,1,0.5,1,0.25,0.75,1,0,0,0,0",
    )
    write(
        root / "train_sizes.csv",
        "image,width,height",
        "000002b66c9c498e,1000,800",
        "000002b97e5471a0,640,480",
    )
    names = ("00000b4dcff7f799", "00001a21632de752", "0000d67245642c5f")
    write(root / "sample_submission.csv", "ImageId,PredictionString", *(f"{i}," for i in names))
    write(root / "test_sizes.csv", "image,width,height", *(f"{i},1024,512" for i in names))


def coco_like(root: Path) -> None:
    """recycle, demo and taco: three test images of 1024 x 1024."""
    classes = {"demo": ("Paper", "Paper pack", "Metal", "Glass", "Plastic bag", "Clothing")}
    names = classes.get(root.name, tiny.CLASSES)
    images = [{"id": i, "file_name": f"test/{i:04d}.jpg", "width": SIDE, "height": SIDE} for i in range(3)]
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    for split in ("train", "test"):
        content = {"images": images, "annotations": [], "categories": categories}
        write(root / f"{split}.json", json.dumps(content))


def bccd(root: Path) -> None:
    for i in range(3):
        xml = tiny.voc_xml(f"cell_{i}.jpg", [], (SIDE, SIDE))
        write(root / f"BCCD/Annotations/cell_{i}.xml", xml)
    for name in ("trainval", "test"):
        write(root / f"BCCD/ImageSets/Main/{name}.txt", "cell_0", "cell_1", "cell_2")


WRITERS: dict[str, Callable[[Path], None]] = {
    "bccd": bccd,
    "demo": coco_like,
    "openimages": openimages,
    "recycle": coco_like,
    "reef": reef,
    "rsna": rsna,
    "siim": siim,
    "taco": coco_like,
    "vinbigdata": vinbigdata,
    "wheat": wheat,
}
