from dataclasses import replace

from trainer.data.checks import Facts, sum_up, table
from trainer.data.ledger import LeftOut

PICTURE = Facts("", "cats", "train", "", 1000, 300, 200, "JPEG", "RGB", 1, "", "")


def picture(path, number, **different):
    # Hashes that are far from one another.
    digits = f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}"
    return replace(
        PICTURE,
        path=path,
        sha256=digits,
        hash=digits,
        mirrored_hash=f"{number * 0xC2B2AE3D27D4EB4F % 2**64:016x}",
        **different,
    )


def test_each_problem_is_listed_with_its_reason():
    found = sum_up(
        [
            picture("train/cats/1.png", 1),
            picture("train/cats/2.jpg", 2, orientation=3),
            picture("train/cats/3.jpg", 3, width=20),
            picture("train/cats/4.jpg", 4, width=9000, height=9000),
            picture("train/cats/5.jpg", 5, width=1000, height=100),
        ],
        [LeftOut("train/cats/6.jpg", "empty file")],
    )
    assert found["mislabelled"] == [{"path": "train/cats/1.png", "reason": "JPEG"}]
    assert found["turned"] == [{"path": "train/cats/2.jpg", "reason": "tag 3"}]
    assert found["tiny"] == [{"path": "train/cats/3.jpg", "reason": "20×200"}]
    assert found["huge"] == [{"path": "train/cats/4.jpg", "reason": "9000×9000"}]
    assert [file["path"] for file in found["stretched"]] == ["train/cats/3.jpg", "train/cats/5.jpg"]
    assert found["unreadable"] == [{"path": "train/cats/6.jpg", "reason": "empty file"}]


def test_counts_baseline_and_imbalance_are_by_split_and_class():
    facts = [picture(f"train/cats/{number}.jpg", number) for number in range(1, 4)]
    facts += [picture("validation/dogs/1.jpg", 5, label="dogs", split="validation")]
    found = sum_up(facts, [])
    assert found["counts"] == {"train": {"cats": 3}, "validation": {"dogs": 1}}
    assert found["baseline_accuracy"] == {"train": 1.0, "validation": 1.0}
    assert found["imbalance"] == 3.0
    lines = list(table(found))
    assert [line.split() for line in lines[:3]] == [
        ["class", "train", "validation"],
        ["cats", "3", "0"],
        ["dogs", "0", "1"],
    ]


def test_duplicates_are_told_across_splits_and_classes():
    one = picture("train/cats/1.jpg", 1)
    found = sum_up(
        [
            one,
            replace(one, path="validation/cats/2.jpg", split="validation"),
            replace(one, path="train/dogs/3.jpg", label="dogs", sha256="another"),
        ],
        [],
    )
    assert found["duplicates"] == [
        {
            "paths": ["train/cats/1.jpg", "train/dogs/3.jpg", "validation/cats/2.jpg"],
            "exact": True,
            "splits": ["train", "validation"],
            "classes": ["cats", "dogs"],
        }
    ]
    assert (
        "1 groups of pictures that look the same: 1 with the very same file; 1 across splits, 1"
        " across classes" in table(found)
    )


def test_table_of_hundreds_of_classes_shows_the_largest_and_the_smallest():
    facts = [
        picture(f"{label:03}/{n}.jpg", 1000 * label + n, label=f"{label:03}")
        for label in range(200)
        for n in range(1 + label)
    ]
    lines = list(table(sum_up(facts, [])))
    shown = [line.split()[0] for line in lines[1:22]]
    assert shown == [
        *(f"{label:03}" for label in range(199, 189, -1)),
        "…",
        *(f"{label:03}" for label in range(9, -1, -1)),
    ]
