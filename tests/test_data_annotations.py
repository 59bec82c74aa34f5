"""Boxes as others write them."""

import json
from pathlib import Path

import pytest

from fxcli.data.annotations import Annotated, Source, read_annotations
from fxcli.errors import DataError

COCO = {
    "images": [
        {"id": 7, "file_name": "a/x.png", "width": 100, "height": 50},
        {"id": 8, "file_name": "b/y.png", "width": 30, "height": 40},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 5, 20.5, 30]},
        {"id": 2, "image_id": 7, "category_id": 9, "bbox": [1, 2, 3, 4]},
    ],
    "categories": [{"id": 3, "name": "fracture"}, {"id": 4, "name": "implant"}],
}
VOC = """<annotation><!-- by hand --><size><width>100</width><height>50</height><depth>1</depth></size>
<object><name>fracture</name><bndbox><xmin>11</xmin><ymin>6</ymin><xmax>30</xmax><ymax>35</ymax></bndbox></object>
</annotation>"""


def write(name, content):
    file = Path(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def coco(**changes):
    return write("boxes.json", COCO | changes)


def corners(picture):
    return [(box.label, box.corners) for box in picture.boxes]


def find(source, name):
    (key,) = source.match([name])
    return None if key is None else source.pictures[key]


# --- COCO ---


def test_coco():
    source = read_annotations(coco())
    assert source.labels == ("fracture", "implant")
    found = find(source, "a/x.png")
    assert found.size_px == (100, 50)
    assert corners(found) == [("fracture", (10, 5, 30.5, 35)), ("", (1, 2, 4, 6))]
    assert f"{found.file}{found.boxes[1].place}" == "boxes.json: annotations[1]"
    assert find(source, "b/y.png") == Annotated((), (30, 40)), "a negative"
    assert find(source, "b/z.png") is None


def test_a_picture_is_found_by_its_last_part_where_no_other_has_it():
    source = read_annotations(coco())
    assert find(source, "elsewhere/x.png") is find(source, "a/x.png")
    images = [*COCO["images"], {"id": 9, "file_name": "c/x.png", "width": 1, "height": 1}]
    source = read_annotations(coco(images=images))
    assert find(source, "elsewhere/x.png") is None
    assert find(source, "c/x.png").size_px == (1, 1)


def test_a_path_of_windows_is_a_path():
    images = [{**each, "file_name": f"D:\\set\\{each['file_name']}".replace("/", "\\")} for each in COCO["images"]]
    assert read_annotations(coco(images=images)).match(["a/x.png", "y.png"]) == ["D:/set/a/x.png", "D:/set/b/y.png"]


def test_a_path_goes_before_a_name_and_keeps_names_from_being_looked_at():
    images = [{**COCO["images"][0], "file_name": "patA/fr/1.png"}, COCO["images"][1]]
    source = read_annotations(coco(images=images))
    assert source.match(["patB/fr/1.png", "b/y.png"]) == [None, "b/y.png"]
    assert source.match(["set/patA/fr/1.png", "set/patB/fr/1.png"]) == ["patA/fr/1.png", None]
    assert source.match(["patB/fr/1.png", "fr/2.png"]) == ["patA/fr/1.png", None], "no folder is called as here"


def test_pictures_that_are_all_called_alike_are_found_at_once():
    """As those of studies are; with a look at each for each, these took minutes."""
    names = [f"p{number}/study/image1.png" for number in range(20_000)]
    keys = [f"set/{name}" for name in names]
    source = Source(Path(), dict.fromkeys(keys, Annotated()), ("fracture",), has_endings=True)
    assert source.match(names) == keys
    others = [f"other/{name}" for name in names]
    assert source.unlike(others, keys) == others
    assert source.unlike(others, keys[1:]) == []


def test_what_has_the_path_of_one_picture_is_no_other_ones():
    source = read_annotations(coco())
    assert source.match(["elsewhere/x.png", "a/x.png", "y.png"]) == [None, "a/x.png", "b/y.png"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"images": 3}, "not a COCO file"),
        ({"categories": [{"id": 1}]}, "not a COCO file: KeyError: 'name'"),
        ({"annotations": [{"image_id": 7, "category_id": 3, "bbox": [1, 2, 3]}]}, "not a COCO file: ValueError"),
        ({"annotations": [{"image_id": 7, "category_id": 3, "bbox": ["x", 2, 3, 4]}]}, "not a COCO file: ValueError"),
        ({"annotations": [{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4]}]}, "boxes of 1 images that are not"),
        ({"images": [COCO["images"][0], {**COCO["images"][0], "id": 9}]}, "this picture is listed 2 times: a/x.png"),
        ({"images": [COCO["images"][0], {**COCO["images"][1], "id": 7}]}, "this id of images is listed 2 times: 7"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "this id of categories is listed 2 times"),
        ({"images": [{**COCO["images"][0], "width": 1e999}]}, "not a COCO file: OverflowError"),
        ({"annotations": [{"image_id": 7, "category_id": 3, "bbox": [10**400, 2, 3, 4]}]}, "OverflowError"),
    ],
)
def test_what_is_no_coco(changes, told):
    with pytest.raises(DataError, match=told):
        read_annotations(coco(**changes))


def test_a_crowd_is_no_box(capsys):
    box = COCO["annotations"][0]
    found = find(read_annotations(coco(annotations=[box, {**box, "iscrowd": 1}])), "a/x.png")
    assert len(found.boxes) == 1
    assert "1 boxes around a crowd of things (iscrowd) are passed over" in capsys.readouterr().err


def test_of_a_picture_with_a_crowd_alone_nothing_is_known():
    """Not that nothing is there."""
    found = read_annotations(coco(annotations=[{**COCO["annotations"][0], "iscrowd": 1}])).pictures
    assert [each.boxes for each in found.values()] == [()] * len(COCO["images"])
    assert [name for name, each in found.items() if not each.is_known] == ["a/x.png"]


@pytest.mark.parametrize("content", ["", "[", "[" * 100_000, "[]", "{}"])
def test_what_is_no_json(content):
    with pytest.raises(DataError, match="not a COCO file"):
        read_annotations(write("boxes.json", content))


# --- YOLO ---


def test_poses_are_no_polygons():
    write("data.yaml", "names: [wrist]\nkpt_shape: [1, 2]\n")
    write("labels/x.txt", "0 .5 .5 .2 .2 .45 .45\n")
    with pytest.raises(DataError, match="of poses"):
        read_annotations(Path("labels"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels/classes.txt", "fracture\nimplant\n"),
        ("obj.names", "fracture\nimplant\n\n"),
        ("data.yaml", "names: [fracture, implant]\nnc: 2\n"),
        ("data.yaml", "names:\n  0: fracture\n  1: implant\n"),
    ],
)
def test_yolo(name, content):
    write(name, content)
    write("labels/train/x.txt", "0 0.5 0.25 0.2 0.5\n\n1 0.1 0.2 0.3 0.2 0.3 0.6\n")
    write("labels/val/y.txt", "")
    source = read_annotations(Path("labels"))
    assert source.labels == ("fracture", "implant")
    found = find(source, "images/train/x.jpg")
    assert found.size_px is None
    assert [(label, pytest.approx(box)) for label, box in corners(found)] == [
        ("fracture", (0.4, 0.0, 0.6, 0.5)),
        ("implant", (0.1, 0.2, 0.3, 0.6)),
    ]
    assert [f"{found.file}{box.place}" for box in found.boxes] == ["labels/train/x.txt:1", "labels/train/x.txt:3"]
    assert find(source, "images/val/y.jpg") == Annotated()
    assert find(source, "images/val/z.jpg") is None


def test_the_last_part_of_a_uid_is_no_ending():
    write("labels/classes.txt", "fracture")
    for number in (1, 2):
        write(f"labels/1.2.276.0.{number}.txt", "0 0.5 0.5 0.1 0.1")
    names = ["1.2.276.0.1", "1.2.276.0.2.DCM", "1.2.276.0.jfif", "1.2.276.0.3"]
    assert read_annotations(Path("labels")).match(names) == ["1.2.276.0.1", "1.2.276.0.2", None, None]


@pytest.mark.parametrize("root", ["in", "in/train"])
def test_labels_beside_images(root):
    """As YOLO's tools lay them out, with the same names in each part."""
    for part in ("train", "valid"):
        write(f"in/{part}/labels/x.txt", "0 0.5 0.5 0.1 0.1")
    write(f"{root}/data.yaml", "names: [fracture]")
    source = read_annotations(Path(root))
    pictures = [f"{part}/images/x.png" for part in ("train", "valid")]
    if root == "in":
        assert source.match([*pictures, "x.png"]) == ["train/labels/x", "valid/labels/x", None]
    else:
        assert source.match(["images/x.png", "other/images/x.png"]) == ["labels/x", None]
    assert source.match(["y/images/images/x.png"])[0] == (None if root == "in" else "labels/x")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("0 0.5 0.5 0.1", r"x\.txt:1: a box of YOLO has a class and 4 numbers, this line 3"),
        ("0 0.5 0.5 0.1 0.1 0.9", "this line 5"),
        ("zero 0.5 0.5 0.1 0.1", "not a box of YOLO"),
        ("0 a b c d", "not a box of YOLO"),
    ],
)
def test_lines_that_are_no_boxes(line, told):
    write("labels/classes.txt", "fracture")
    write("labels/x.txt", line)
    with pytest.raises(DataError, match=told):
        read_annotations(Path("labels"))


def test_a_number_without_a_class_has_no_label():
    write("labels/classes.txt", "fracture")
    write("labels/x.txt", "1 0.5 0.5 0.1 0.1")
    assert find(read_annotations(Path("labels")), "x.png").boxes[0].label == ""


@pytest.mark.parametrize("content", ["names: 3", "names: {1: a}", "nc: 1", "a: b: c", "names: []"])
def test_names_that_are_none(content):
    write("labels/x.txt", "0 0.5 0.5 0.1 0.1")
    write("data.yaml", content)
    with pytest.raises(DataError, match="names of classes"):
        read_annotations(Path("labels"))


def test_a_blank_line_may_be_a_class():
    write("labels/x.txt", "1 0.5 0.5 0.1 0.1")
    write("labels/classes.txt", "fracture\n\nimplant\n")
    with pytest.raises(DataError, match=r"classes\.txt:2: a blank line"):
        read_annotations(Path("labels"))


def test_names_beside_the_boxes_go_before_those_further_up():
    write("classes.txt", "of something else")
    for part in ("train", "val"):
        write(f"in/{part}/classes.txt", "fracture\nimplant")
        write(f"in/{part}/x.txt", "1 0.5 0.5 0.1 0.1")
    assert read_annotations(Path("in")).labels == ("fracture", "implant")
    write("in/val/classes.txt", "implant\nfracture")
    with pytest.raises(DataError, match=r"val: other names of classes than in .*train"):
        read_annotations(Path("in"))
    write("in/data.yaml", "names: [a, b]")
    assert read_annotations(Path("in")).labels == ("a", "b")


def test_names_are_needed():
    write("labels/x.txt", "0 0.5 0.5 0.1 0.1")
    with pytest.raises(DataError, match="no names of classes") as caught:
        read_annotations(Path("labels"))
    assert "data.yaml" in caught.value.hint


# --- Pascal VOC ---


def test_voc():
    write("voc/x.xml", VOC)
    write("voc/y.xml", "<annotation><size><width>3</width><height>4</height></size></annotation>")
    source = read_annotations(Path("voc"))
    assert source.labels == ("fracture",)
    found = find(source, "x.png")
    assert (found.size_px, corners(found)) == ((100, 50), [("fracture", (10, 5, 30, 35))])
    assert find(source, "y.png") == Annotated((), (3, 4))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("<a", "not a file of Pascal VOC"),
        ("<a/>", "no size/width"),
        (VOC.replace("<name>fracture</name>", ""), "no name"),
        (VOC.replace("35", "x"), "not a file of Pascal VOC"),
        ('<!DOCTYPE a [<!ENTITY b "c">]>' + VOC, "declares entities"),
    ],
)
def test_what_is_no_voc(content, told):
    write("voc/x.xml", content)
    with pytest.raises(DataError, match=told):
        read_annotations(Path("voc"))


# --- folders of strangers ---


def test_what_holds_no_boxes_is_passed_over():
    write("in/data.yaml", "names: [fracture]")
    for name in ("README.roboflow.txt", "readme.dataset.txt", "README.txt", "._a.txt", ".hidden/b.txt"):
        write(f"in/{name}", "Exported by a service")
    write("in/a.txt", "0 0.5 0.5 0.1 0.1")
    assert list(read_annotations(Path("in")).pictures) == ["a"]
    write("in/train/labels/c.txt", "0 0.5 0.5 0.1 0.1")
    write("in/train/labels/._c.txt", "\0")
    assert list(read_annotations(Path("in")).pictures) == ["train/labels/c"]


def test_a_list_of_pictures_beside_boxes_is_passed_over():
    """As CVAT and darknet have it."""
    write("in/obj.names", "fracture")
    write("in/train.txt", "data/obj_train_data/a.jpg\n\ndata/obj_train_data/b.PNG\n")
    write("in/obj_train_data/a.txt", "0 0.5 0.5 0.1 0.1")
    write("in/obj_train_data/b.txt", "\n")
    source = read_annotations(Path("in"))
    assert source.match(["obj_train_data/a.jpg", "b.PNG"]) == ["obj_train_data/a", "obj_train_data/b"]


def test_of_both_kinds_the_one_with_more_files_is_read(capsys):
    write("in/classes.txt", "fracture")
    for name in "ab":
        write(f"in/{name}.txt", "0 0.5 0.5 0.1 0.1")
        write(f"in/{name}.xml", VOC)
    assert find(read_annotations(Path("in")), "a.png").size_px is None
    assert capsys.readouterr().err == (
        "warning: in: 2 .txt and 2 .xml files of boxes, of which the .txt files are read\n"
    )
    write("in/c.xml", VOC)
    assert find(read_annotations(Path("in")), "a.png").size_px == (100, 50)
    assert "of which the .xml files are read" in capsys.readouterr().err


# --- none of them ---


def test_no_boxes(tmp_path):
    with pytest.raises(DataError, match="no such file or folder of boxes"):
        read_annotations(Path("gone"))
    with pytest.raises(DataError, match="no boxes here"):
        read_annotations(tmp_path)
    Path("bytes.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(DataError, match="cannot be read"):
        read_annotations(Path("bytes.json"))


def test_a_file_that_is_too_large(monkeypatch):
    monkeypatch.setattr("fxcli.data.annotations._SIZE_LIMIT_BYTES", 1 << 20)
    write("boxes.json", " " * (1 << 20) + "{}")
    with pytest.raises(DataError, match="larger than 1 MiB"):
        read_annotations(Path("boxes.json"))
