"""Attributes of cases: tables, where they are kept, what they change and what they leave alone."""

import dataclasses
import shutil

import numpy as np
import pytest
from shared import contents, draw_slice, one_line, run_script, write_slices

from evaluation.anatomy import anatomy
from sources.anatomy import measured
from sources.attributes import add_table, attribute_name, facts_with_table, read_table
from sources.facts import FACTS_FILE, OASIS, read_facts, write_facts
from sources.folder import find_slices, open_folder, open_slices
from sources.layout import split_folder

# Cases 1 to 6 have slices. Case 3 is of the subject of case 1; subjects 5 and 6 are called 6 and 5.
NAMES = {1: "P01", 2: "P02", 3: "P01", 4: "P04", 5: "6", 6: "5"}
KNOWN = {
    case: {"subject": name, "scan": f"{name} {case}", "class": "AD"} for case, name in NAMES.items()
}
BESIDE = """Case,split,M/F, nWBV,CDR,remark
001,train,F,0.71,0.5,
2,train,M,.8,0,seen twice
03,test,N/A,1e-1,,
6,test,F,,2,
"""
EXPECTED = {
    "cdr": {1: 0.5, 2: 0.0, 6: 2.0},
    "nwbv": {1: 0.71, 2: 0.8, 3: 0.1},
    "remark": {2: "seen twice"},
    "sex": {1: "F", 2: "M", 6: "F"},
}


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """A data folder that names subjects and scans. No test changes it."""
    folder = write_slices(tmp_path_factory.mktemp("named") / "data", levels=1)
    write_facts(folder, dataclasses.replace(OASIS, cases=KNOWN))
    return folder


def table(path, text):
    path.write_text(text)
    return read_table(path, text.partition(",")[0])


def test_a_table_beside_the_splits_and_one_that_was_added_say_the_same(tmp_path):
    folder = write_slices(tmp_path / "set" / "data")
    bare = open_slices(folder)
    assert bare.attributes == {} and bare.table_fingerprint is None
    (folder / "subjects.csv").write_text(BESIDE, encoding="utf-8-sig")
    beside = open_slices(folder)
    assert beside.attributes == EXPECTED and beside.num_levels == bare.num_levels
    assert all(type(value) is float for value in beside.attributes["cdr"].values())
    packed = shutil.make_archive(tmp_path / "packed", "zip", tmp_path / "set", "data")
    assert open_slices(find_slices(packed)).attributes == EXPECTED
    assert open_folder(split_folder(folder, "test")).facts.cases[6]["cdr"] == 2

    other = write_slices(tmp_path / "other")
    (tmp_path / "any.csv").write_text(BESIDE)
    done = run_script("dataset.py", "add-table", other, tmp_path / "any.csv")
    assert done.returncode == 0 and "cdr, known of 3 cases" in done.stdout, done.stderr
    added = open_slices(other)
    assert added.attributes == EXPECTED and added.table_fingerprint == beside.table_fingerprint
    checked = run_script("dataset.py", "check", other).stdout
    assert "cdr: 0 (1), 0.5 (1), 2 (1), known of 3 cases" in checked
    # The slices are the same, so what was trained without a table can be evaluated with one.
    config = {"fingerprint": bare.fingerprint}
    assert added.fingerprint == bare.fingerprint and added.are_of(config)
    (folder / "subjects.csv").write_text(BESIDE.replace("0.71", "0.72"))
    assert open_slices(folder).table_fingerprint != added.table_fingerprint
    shutil.rmtree(split_folder(folder, "train"))  # rows of cases that are not there are left out
    assert open_slices(folder, needed=["test"]).attributes["cdr"] == {6: 2.0}


def test_a_table_names_cases_by_number_scan_or_subject(named, tmp_path):
    folder = shutil.copytree(named, tmp_path / "data")
    add_table(folder, table(tmp_path / "a.csv", "subject,age,volume_ml\nP01,70,1\nP02,,2\n5,66,\n"))
    slices = open_slices(folder)
    assert slices.attributes["age"] == {1: 70, 3: 70, 6: 66}  # all rows are names, so 5 is one
    assert slices.attributes["class"] == dict.fromkeys(range(1, 7), "AD")
    add_table(folder, table(tmp_path / "b.csv", "case,age\n5,50\n"))
    slices = open_slices(folder)  # the new column in place of the old one, and all else as it was
    assert slices.attributes["age"] == {5: 50} and slices.attributes["volume_ml"][3] == 1
    add_table(folder, table(tmp_path / "c.csv", "ID,age\n6 5,51\n"))
    assert open_slices(folder).attributes["age"] == {5: 51}
    add_table(folder, table(tmp_path / "d.csv", "number,age\n5,52\n4,53\n"))
    assert open_slices(folder).attributes["age"] == {5: 52, 4: 53}
    assert set(open_slices(folder).attributes) == {"age", "class", "volume_ml"}
    assert read_facts(folder).subject(5) == "6"
    columns = map(attribute_name, ("M/F", " CDR", "MR Delay (d)"))
    assert list(columns) == ["sex", "cdr", "mr_delay_d"]


MANY = "\n".join(f"{n % 6 + 1},name {n}" for n in range(30))
BAD = {
    "unknown case": ("case,cdr\n1,0\n7,1\n", "an unknown case, 7, in line 3"),
    "unknown name": ("id,cdr\nP01,0\nP99,1\n", "an unknown case, P99, in line 3"),
    "no number": ("case,cdr\n1.0,0\n", "an unknown case, 1.0, in line 2"),
    "long number": (f"case,cdr\n{'1' * 5000},0\n", "an unknown case, 1111"),
    "two rows": ("case,cdr\n1,0\n\n01,1\n", "lines 2 and 4, both of case 1"),
    "two names": ("id,cdr\nP01,0\nP01 3,1\n", "lines 2 and 3, both of case 3"),
    "names": (f"case,name\n{MANY}\n", "30 different words of 30 people in column name"),
    "no column": ("patient,cdr\n1,0\n", "has no column case: its columns are patient, cdr"),
    "no name": ("case,cdr,\n1,0,\n", "a column called ''"),
    "two columns": ("case,CDR,cdr\n1,0,0\n", "2 columns called 'cdr'"),
    "a place": ("case,volume\n1,0\n", "a column called 'volume'"),
    "no attribute": ("case,split\n1,train\n", "has no attributes"),
    "no rows": ("case,cdr\n\n", "has no rows"),
    "nothing": ("", "has no column case"),
    "empty column": ("case,cdr,age\n1,,70\n2,NA,71\n", "no values in column cdr"),
    "no case": ("case,cdr\n ,1\n", "has no case in line 2"),
    "not a number": ("case,cdr\n1,0\n2,NaN\n", "has NaN in column cdr"),
    "infinite": ("case,cdr\n1,0\n2,1e999\n", "has 1e999 in column cdr"),
    "short row": ("case,cdr,age\n1,0\n", "2 values for 3 columns in line 2"),
    "quotes": ('case,cdr\n1,"a"b\n', "cannot be read"),
    "other text": ("case,cdr\n1,\xe9\n".encode("latin-1"), "cannot be read"),
    "a spreadsheet": (b"PK\3\4\0\0\xff", "save it as CSV in UTF-8"),
    "missing": (None, "is not there"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_table_is_one_line_and_changes_nothing(name, named, tmp_path):
    content, words = BAD[name]
    path, before = tmp_path / "bad.csv", contents(named)
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    column = "id" if isinstance(content, str) and content.startswith("id,") else "case"
    one_line(run_script("dataset.py", "add-table", named, path, "--case", column), words)
    assert contents(named) == before


def test_a_bad_table_beside_the_splits_and_folders_that_take_none(named, tmp_path):
    folder = shutil.copytree(named, tmp_path / "data")
    (folder / "subjects.csv").write_text("case,cdr\n9,1\n")
    one_line(run_script("dataset.py", "check", folder), "an unknown case, 9, in line 2")
    (folder / "subjects.csv").write_text("case,cdr\n1,1\n")
    (folder / FACTS_FILE).write_text('{"cases": {"1": {"age": NaN}}}')
    one_line(run_script("dataset.py", "check", folder), "a number that is not finite")
    packed = shutil.make_archive(tmp_path / "packed", "zip", named.parent, "data")
    (tmp_path / "none").mkdir()
    for place, words in ((packed, "unpack it"), (tmp_path / "none", "name another folder")):
        add = "dataset.py", "add-table", place, folder / "subjects.csv"
        one_line(run_script(*add), words)


def test_facts_of_a_folder_without_a_table_are_those_of_its_file(named):
    assert facts_with_table(named) == read_facts(named)


def test_ventricles_and_brain_are_measured_in_whole_stacks_of_masked_brains():
    brains = {case: np.stack([draw_slice(case, level) for level in range(2)]) for case in (1, 2, 3)}
    brains[2] = np.where(brains[1] < 100, brains[1], 200).astype("uint8")
    brains[2][:, 100:156, 120:150] = 20  # wider ventricles
    images = np.concatenate([*brains.values(), brains[1][:1]])
    cases = np.array([1, 1, 2, 2, 3, 3, 4])
    facts = dataclasses.replace(OASIS, masked=True, levels=2)
    found = measured(images, cases, facts)
    assert set(found) == {"ventricles", "brain"} and set(found["brain"]) == {1, 2, 3}
    assert found["ventricles"][2] > 1.2 * found["ventricles"][1] > 0.01
    for case, brain in brains.items():
        areas = anatomy(brain)
        for name, area in (("ventricles", "ventricle_area"), ("brain", "brain_area")):
            assert found[name][case] == pytest.approx(areas[area].mean(), rel=0.15), name
    for other in ({"masked": False}, {"brain": False}):
        assert measured(images, cases, dataclasses.replace(facts, **other)) == {}
    black = np.zeros((2, 64, 64), "uint8")
    assert measured(black, np.array([1, 1]), facts)["brain"] == {1: 0.0}
