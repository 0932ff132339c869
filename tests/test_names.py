"""Names of sets as they are handed out: split, class, subject and level of each file.

A row of `SETS` makes up the names of a set and says what some of them mean. No file is needed.
"""

import random
from typing import NamedTuple

import pytest

from sources.names import Rules, understand
from utils import InputError

IDS = random.Random(0).sample(range(100_000, 400_000), 24)
SPLITS = ("train", "test", "train", "val")


class Row(NamedTuple):
    paths: list[str]
    means: dict  # split, class, subject, level of some paths
    subjects: int
    cases: int  # subjects and their scans
    notes: tuple = ()  # words in notes
    ignored: dict = {}
    volumes: bool = False


def turns(values, choices):
    """Values with the choices in turn."""
    return [(value, choices[i % len(choices)]) for i, value in enumerate(values)]


def volumes(*args, **kwargs):
    return Row(*args, **kwargs, volumes=True)


ALONE = ("is taken for a person", "flatter")  # words of the note on subjects that are not known


def adni():
    names = [
        f"AD_NC/{split}/{'AD' if number % 2 else 'NC'}/{number}_{level}.jpeg"
        for number, split in turns(IDS, ("train", "test"))
        for level in range(78, 98)
    ]
    number = IDS[1]
    kind = "AD" if number % 2 else "NC"
    means = {f"AD_NC/test/{kind}/{number}_80.jpeg": ("test", kind, str(number), 80)}
    system = ["AD_NC/.DS_Store", "AD_NC/train/AD/._a.jpeg", "AD_NC/Thumbs.db", "AD_NC/readme.txt"]
    ignored = {"system files": 3, "other files": 1}
    return Row(names + system, means, 24, 24, ("3 system files",), ignored)


def knees():
    name = "OAI{}_BaseLine_{}_de3d1_SAG_3D_DESS_WE_{}.nii_{}.png"
    people = [9_000_000 + 7 * number for number in IDS]
    names = [
        name.format(person, person % 4, side, level)
        for i, person in enumerate(people)
        for side in (("LEFT", "RIGHT") if i < 4 else ("LEFT",))
        for level in range(20, 30)
    ]
    means = {
        name.format(people[1], people[1] % 4, "RIGHT", 22): (None, None, f"OAI{people[1]}", 22)
    }
    return Row(names, means, 24, 28)


def class_copy_of_oasis():
    names = [f"train/{k}/{k[:4].lower()}Dem{i}.jpg" for k in ("Mild", "Non") for i in range(150)]
    names += [
        f"test/{kind}/{level}{f' ({person})' if person > 1 else ''}.jpg"
        for kind, people in (("Mild", 8), ("Non", 30))
        for level in range(26, 33)
        for person in range(1, people + 1)
        if (level * person) % 11
    ]
    means = {
        "test/Non/26 (19).jpg": ("test", "Non", "Non/19", None),
        "test/Mild/27.jpg": ("test", "Mild", "Mild/1", None),
        "train/Non/nonDem7.jpg": ("train", "Non", "nonDem7", None),
    }
    words = ("worth nothing", "the set has one level", *ALONE)
    tested = sum(name.startswith("test") for name in names)
    return Row(names, means, 300 + 36, 300 + tested, words)


def tumours():
    names = [
        f"{split}/{kind}/{stem}({i}).jpg"
        for split, count in (("Training", 60), ("Testing", 20))
        for kind, stem in (
            ("glioma_tumor", "gg "), ("meningioma_tumor", "m "), ("meningioma_tumor", "m1"),
            ("no_tumor", "image"),
        )
        for i in range(1, count)
    ] + [f"Training/no_tumor/{i}.jpg" for i in range(1, 9)]  # fmt: skip
    path = "Testing/glioma_tumor/gg (12).jpg"
    return Row(names, {path: ("test", "glioma_tumor", path, None)}, 320, 320, ALONE)


def hip_mri():
    names, masks = [], []
    for (case, split), week in [
        (one, week) for one in turns(range(4, 40), ("train", "validate", "test")) for week in (0, 2)
    ]:
        for level in range(case % 2, 12 + case % 2):
            name = f"case_{case:03d}_week_{week}_slice_{level}.nii"
            folded = level == 3  # a file in a folder of its own name
            names.append(f"keras_slices_{split}/{name}{'/' + name if folded else '.gz'}")
            masks.append(f"keras_slices_seg_{split}/{name.replace('case', 'seg')}.gz")
    folded = "case_004_week_2_slice_3.nii"
    means = {
        f"keras_slices_train/{folded}/{folded}": ("train", None, "case_004", 3),
        "keras_slices_test/case_006_week_0_slice_10.nii.gz": ("test", None, "case_006", 10),
    }
    ignored = {"label maps and masks": len(masks)}
    return Row(names + masks, means, 36, 72, ("label maps",), ignored)


def repeats_of_oasis():
    names = [
        f"Data/{kind}/OAS1_{person:04d}_MR{visit}_mpr-{repeat}_{level}.jpg"
        for person, kind in turns(range(1, 9), ("Mild Dementia", "Non Demented"))
        for visit in ((1, 2) if person == 8 else (1,))
        for repeat in (1, 2, 3)
        for level in range(100, 111)
    ]
    path = "Data/Non Demented/OAS1_0008_MR2_mpr-1_100.jpg"
    return Row(names, {path: (None, "Non Demented", "OAS1_0008", 100)}, 8, 27)


def tcga():
    names = [
        f"kaggle_3m/TCGA_{site}_{n}_19960909/TCGA_{site}_{n}_19960909_{level}{mask}.TIF"
        for n, site in turns(range(4941, 5941, 100), ("CS", "DU"))
        for level in range(1, 20 + n % 7)
        for mask in ("", "_mask")
    ]
    folder = "TCGA_CS_4941_19960909"
    means = {f"kaggle_3m/{folder}/{folder}_12.TIF": (None, None, folder, 12)}
    return Row(names, means, 10, 10, (), {"label maps and masks": len(names) // 2})


def brats(endings):
    folder = "MICCAI_BraTS2020_{0}Data/BraTS20_{0}_{1:03d}/BraTS20_{0}_{1:03d}_{2}"
    return [folder.format("Training", i, ending) for i in range(1, 13) for ending in endings]


def x_rays():
    names, image = [], 0
    for person in range(1, 60):
        for _ in range(1 + person % 3):
            image += 1
            names.append(
                f"rays/PNEUMONIA/person{person}_{('virus', 'bacteria')[image % 2]}_{image}.jpeg"
            )
    names += [f"rays/NORMAL/{'NORMAL2-' * (i % 2)}IM-{115 + i:04d}-0001.jpeg" for i in range(80)]
    return Row(names, {names[1]: (None, "PNEUMONIA", "person1", None)}, 139, len(names), ALONE)


IXI = [f"IXI{n:03d}-{site}-{n + 826:04d}" for n, site in turns(range(2, 40, 2), ("Guys", "HH"))]
FREE_SURFER = ("orig", "nu", "T1", "norm", "brain", "brainmask", "aseg", "aparc+aseg", "ribbon")
HCP = ("T1w/T1w_acpc_dc", "T1w/T1w_acpc_dc_restore", "T1w/T2w_acpc_dc", "T1w/aparc+aseg",
       "MNINonLinear/T1w_restore_brain", "T1w/ribbon")  # fmt: skip
BIDS = ("T1w", "T2w", "desc-preproc_T1w", "space-MNI152NLin2009cAsym_desc-brain_mask",
        "label-GM_probseg")  # fmt: skip
NEURITE = ("aligned_norm", "aligned_orig", "norm", "orig", "aligned_seg35", "seg4", "slice_norm")
SITE = "ADNI/{0}/MPRAGE/200{1}-04-18_08_20_30.0/S{2}/ADNI_{0}_MR_Br_2007031911_S{2}_I{3}.nii"


SETS = {
    "ADNI": adni(),
    "OAI knees": knees(),
    "class copy of OASIS": class_copy_of_oasis(),
    "tumours": tumours(),
    "HipMRI": hip_mri(),
    "OASIS repeats": repeats_of_oasis(),
    "TCGA": tcga(),
    "x-rays": x_rays(),
    "subject folders": Row(
        [f"S{i:03d}/IMG_{k:03d}.png" for i in range(1, 9) for k in range(1, 20)],
        {"S003/IMG_012.png": (None, None, "S003", 12)}, 8, 8,
    ),
    "split's word at the start": Row(
        [f"{s}/{k}/{s[:2]}-{k[:2]}_{i:04d}.jpg" for s in ("Training", "Testing")
         for k in ("glioma", "notumor") for i in range(10, 40)],
        {"Training/glioma/Tr-gl_0010.jpg":
         ("train", "glioma", "Training/glioma/Tr-gl_0010.jpg", None)}, 120, 120, ALONE,
    ),
    "split's word inside names": volumes(
        brats(("t1.nii", "t1ce.nii", "t2.nii", "flair.nii", "seg.nii")),
        {brats(("T1.NII.GZ",))[3]: None, brats(("flair.nii",))[0]:
         (None, None, "BraTS20_Training_001", None)}, 12, 48,
        ("FLAIR of 12, T1 of 12, T1CE of 12, T2 of 12",), {"label maps and masks": 12},
    ),
    "folder of its own name": Row(
        [f"x/x/{kind}-parent/{kind}/{kind}_{i}.jpg" for kind in ("AD", "CN") for i in range(9)],
        {"x/x/AD-parent/AD/AD_3.jpg": (None, "AD", "x/x/AD-parent/AD/AD_3.jpg", None)}, 18, 18,
    ),
    "MedMNIST": Row(
        [f"{split}/class_{i % 3}/image ({i}).png" for split in ("train", "val", "test")
         for i in range(40)],
        {"val/class_1/image (4).png":
         ("validate", "class_1", "val/class_1/image (4).png", None)}, 120, 120, ALONE,
    ),
    "IXI": volumes(
        [f"{name}-{contrast}.NII.GZ" for name in IXI for contrast in ("T1", "T2", "PD")],
        {f"{IXI[0]}-T2.NII.GZ": (None, None, "IXI002", None)}, 19, 57, ("PD of 19",),
    ),
    "HCP": volumes(
        [f"{number}/{name}.nii.gz" for number in IDS for name in HCP],
        {f"{IDS[0]}/T1w/T2w_acpc_dc.nii.gz": (None, None, str(IDS[0]), None)}, 24, 48,
        ("further versions",), {"label maps and masks": 48, "further versions of a scan": 48},
    ),
    "FreeSurfer": volumes(
        [f"S{i}/mri/{name}.mgz" for i in range(9) for name in FREE_SURFER],
        {"S3/mri/T1.mgz": (None, None, "S3", None)}, 9, 9, (),
        {"label maps and masks": 36, "further versions of a scan": 36},
    ),
    "neurite": volumes(
        [f"OASIS_OAS1_{i:04d}_MR1/{name}.nii.gz" for i in range(1, 9) for name in NEURITE],
        {"OASIS_OAS1_0003_MR1/orig.nii.gz": (None, None, "OAS1_0003", None)}, 8, 8, (),
        {"label maps and masks": 16, "further versions of a scan": 32},
    ),
    "BIDS": volumes(
        [f"sub-{i:02d}/ses-{visit}/anat/sub-{i:02d}_ses-{visit}_{name}.nii.gz"
         for i in range(1, 9) for visit in (1, 2) for name in BIDS]
        + [f"derivatives/prep/sub-{i:02d}_T1w.nii.gz" for i in range(1, 9)],
        {"sub-03/ses-2/anat/sub-03_ses-2_T1w.nii.gz": (None, None, "sub-03", None)}, 8, 32,
        ("T1W of 8, T2W of 8",), {"label maps and masks": 32, "derivatives": 24},
    ),
    "ADNI volumes": volumes(
        [SITE.format(f"{2 + i % 3:03d}_S_{295 + i // 2:04d}", 6 + i % 2, 10_000 + 7 * i, 77 * i)
         for i in range(20)],
        {SITE.format("002_S_0295", 6, 10_000, 0): (None, None, "002_S_0295", None)}, 20, 20,
    ),
    "one volume": volumes(["x/sub-07_T1w.nii.gz"], {"x/sub-07_T1w.nii.gz":
                                                   (None, None, "sub-07", None)}, 1, 1),
    # Further sets of the same kinds.
    "numbered words": Row(
        [f"{split}/{kind}/patient_{i}/slice ({k}).png" for (i, split), kind in
         zip(turns(range(1, 13), ("Training", "Testing", "valid")), ["sick", "healthy", "sick",
             "sick", "healthy", "healthy"] * 2) for k in range(1, 8)],
        {"Testing/healthy/patient_2/slice (3).png": ("test", "healthy", "patient_2", 3)}, 12, 12,
    ),
    "number glued to a letter": Row(
        [f"P{i}_{k}.BMP" for i in range(1, 4) for k in range(9)],
        {"P2_5.BMP": (None, None, "P2", 5)}, 3, 3,
    ),
    "stacks of unequal length": Row(
        [f"brain_{i}_{k}.png" for i in range(1, 12) for k in range(1 + i % 5, 20 + i % 7)],
        {"brain_4_10.png": (None, None, "4", 10)}, 11, 11,
    ),
    "numbers as classes": Row(
        [f"{split}/{grade}/{9_000_000 + 31 * i + grade}{side}.png" for i, split in
         turns(range(60), ("train", "val", "test")) for grade in range(5) for side in "LR"],
        {"val/2/9000033L.png": ("validate", "2", "9000033", None)}, 300, 600,
    ),
    "visits": Row(
        [f"S{i:02d}/visit{v}/IMG_{k:04d}.JPG" for i in range(1, 9) for v in (1, 2, 3)[: 2 + i % 2]
         for k in range(1, 9)],
        {"S03/visit3/IMG_0004.JPG": (None, None, "S03", 4)}, 8, 20,
    ),
    "contrasts as folders": Row(
        [f"{contrast}/brain{i:02d}_{k:02d}.png" for contrast in ("T1", "T2", "FLAIR")
         for i in range(1, 9) for k in range(12)],
        {"T2/brain03_07.png": (None, None, "brain03", 7)}, 8, 24, ("T2 of 8",),
    ),
    "masks in folders": Row(
        [f"{s}/{kind}/{i:04d}.png" for s in ("train", "test") for kind in ("images", "masks")
         for i in range(20)],
        {"test/images/0003.png": ("test", None, "test/images/0003.png", None)}, 40, 40, ALONE,
        {"label maps and masks": 40},
    ),
    "tissues": Row(
        [f"P{i:03d}_{k}{end}.png" for i in range(1, 9) for k in range(6)
         for end in ("", "_probtissue", "_tissue", "_segm", "_msk")],
        {"P003_4.png": (None, None, "P003", 4)}, 8, 8, (), {"label maps and masks": 192},
    ),
    "masks of classes": Row(
        [f"{kind}/{kind} ({i}){mask}.png" for kind in ("benign", "malignant") for i in range(1, 20)
         for mask in ("", "_mask", "_mask_1")],
        {"benign/benign (3).png": (None, "benign", "benign (3)", None)}, 38, 38, ALONE,
        {"label maps and masks": 76},
    ),
    "split folders of images": volumes(
        [f"Task/{folder}/BRATS_{i:03d}.nii.gz" for folder, first in
         (("imagesTr", 0), ("labelsTr", 0), ("imagesTs", 20)) for i in range(first, first + 20)],
        {"Task/imagesTs/BRATS_023.nii.gz": ("test", None, "023", None)}, 40, 40, ALONE,
        {"label maps and masks": 20},
    ),
    "splits that count anew": Row(
        [f"{split}/{i}/{k}.png" for split, people in (("train", 12), ("test", 6))
         for i in range(1, people) for k in range(8)],
        {"test/3/5.png": ("test", None, "test/3", 5)}, 16, 16,
    ),
    "sites that count anew": Row(
        [f"site{s}/{i:03d}/{k}.png" for s in "AB" for i in range(1, 9) for k in range(6)],
        {"siteB/003/5.png": (None, "siteB", "siteB/003", 5)}, 16, 16,
    ),
    "a person in two splits": Row(
        [f"{SPLITS[k % 4]}/case_{i:03d}_slice_{k}.png" for i in range(1, 9) for k in range(20)],
        {"val/case_003_slice_3.png": ("validate", None, "case_003", 3),
         "test/case_003_slice_5.png": ("test", None, "case_003", 5)}, 8, 8,
    ),
    "a folder twice and letter cases": Row(
        [f"Alz/{split}/{split}/{('AD', 'NC', 'nc')[i % 3]}/{i + 500_000}_{k}.png"
         for i, split in turns(range(1, 25), ("TRAIN", "Test")) for k in range(6)],
        {"Alz/Test/Test/nc/500002_3.png": ("test", "NC", "500002", 3)}, 24, 24,
    ),
    "classes in flat names": Row(
        [f"{kind}_{i}.jpg" for kind in ("benign", "malignant") for i in range(1, 30)],
        {"benign_3.jpg": (None, None, "benign/3", None)}, 58, 58, ALONE,
    ),
    "names without sense": Row(
        [f"{kind}/{random.Random(i).getrandbits(64):016x}-{i * 7919:08x}.jpg"
         for i, kind in turns(range(800), ("mild", "none"))], {}, 800, 800, ALONE,
    ),
    "mixed words": Row(
        [f"yes/Y{i}.jpg" for i in range(90)] + [f"no/{i} no.jpeg" for i in range(40)]
        + [f"no/N{i}.JPG" for i in range(9)] + [f"no/no {i}.jpg" for i in range(3)],
        {"yes/Y3.jpg": (None, "yes", "yes/Y3.jpg", None)}, 142, 142, ALONE,
    ),
    "words as subjects": Row(
        [f"Patient_{name}/Schicht {k}.png" for name in ("Müller", "Schmidt") for k in range(9)],
        {"Patient_Müller/Schicht 3.png": (None, None, "Patient_Müller", 3)}, 2, 2,
    ),
    "a number of each file": Row(
        [f"{person}/{person}_{k}_{1_000_000 + 97 * k + i}.png" for i, person in enumerate(IDS)
         for k in range(9)],
        {f"{IDS[0]}/{IDS[0]}_4_1000388.png": (None, None, str(IDS[0]), 4)}, 24, 24,
    ),
    "SPM": volumes(
        [f"sub-{i:02d}/{part}sub-{i:02d}_T1w.nii" for i in range(9)
         for part in ("", "c1", "wc2", "m")],
        {"sub-03/sub-03_T1w.nii": (None, None, "sub-03", None)}, 9, 9, (),
        {"label maps and masks": 18, "derivatives": 9},
    ),
    "what programs make of a volume": volumes(
        [f"{part}s{i:03d}_T1{end}.nii" for i in range(1, 9) for part, end in
         (("", ""), ("m", ""), ("wm", ""), ("y_", ""), ("mri/p1", ""), ("", "_N4"), ("", "_2mm"))],
        {"s003_T1.nii": (None, None, "s003", None)}, 8, 8, (), {"derivatives": 48},
    ),
    "persons of FreeSurfer": volumes(
        [f"{name}/mri/{kind}.mgz" for name in ("anna", "bert", "carl") for kind in FREE_SURFER]
        + ["anna/mri/orig/001.mgz", "anna/mri/orig/002.mgz", "bert/mri/orig/001.mgz"],
        {"bert/mri/T1.mgz": (None, None, "bert", None)}, 3, 3, (),
        {"label maps and masks": 12, "further versions of a scan": 15},
    ),
    "persons as words": volumes(
        [f"{name}/anat/{kind}.nii.gz" for name in ("Anna", "Bob") for kind in ("T1", "FLAIR")],
        {"Anna/anat/T1.nii.gz": (None, None, "Anna", None)}, 2, 4,
    ),
    "fMRIPrep": volumes(
        [f"sub-{i:02d}/anat/sub-{i:02d}_{space}desc-preproc_T1w.nii.gz" for i in range(1, 9)
         for space in ("", "space-MNI152NLin2009cAsym_")],
        {"sub-03/anat/sub-03_desc-preproc_T1w.nii.gz": (None, None, "sub-03", None)}, 8, 8, (),
        {"derivatives": 8},
    ),
    "MPRAGE beside others": volumes(
        [f"KKI2009-{i:02d}-{kind}.nii" for i in range(1, 9) for kind in ("MPRAGE", "FLAIR", "T2w")],
        {"KKI2009-03-MPRAGE.nii": (None, None, "03", None)}, 8, 24, ("MPRAGE of 8",),
    ),
    "initials and dates": Row(
        [f"{name}_{date}_{k}.png" for name in ("AB", "CD", "EF", "GH")
         for date in ("20100102", "2011-03-04") for k in range(10)],
        {"CD_2011-03-04_7.png": (None, None, "CD", 7)}, 4, 8,
    ),
    "time points": volumes(
        [f"Patient-{i:03d}/week-{week:03d}/{contrast}.nii.gz" for i in range(9)
         for week in (0, 12) for contrast in ("T1", "CT1", "FLAIR")],
        {"Patient-003/week-012/CT1.nii.gz": (None, None, "Patient-003", None)}, 9, 54,
    ),
    "pairs on discs": volumes(
        [f"disc{1 + i // 6}/OAS1_{i:04d}_MR1/OAS1_{i:04d}_MR1_mpr_n4_anon_111_t88_{kind}.{ending}"
         for i in range(1, 12) for kind in ("gfc", "masked_gfc") for ending in ("hdr", "img")],
        {"disc1/OAS1_0002_MR1/OAS1_0002_MR1_mpr_n4_anon_111_t88_gfc.hdr":
         (None, None, "OAS1_0002", None)}, 11, 11, (),
        {"voxels of .hdr files": 22, "further versions of a scan": 11},
    ),
    "subjects as words, below splits": Row(
        [f"{split}/{name}/IMG_{k}.png" for split, name in
         (("train", "Anna"), ("train", "Bob"), ("test", "Carl")) for k in range(9)],
        {"test/Carl/IMG_3.png": ("test", None, "Carl", 3)}, 3, 3,
    ),
    "files that lie beside": Row(
        [f"S{i:02d}/{k}.png" for i in range(1, 20) for k in range(10)] + ["preview.png", "a/b.png"],
        {"S03/4.png": (None, None, "S03", 4)}, 19, 19, ("2 names without a level",),
        {"names without a level": 2},
    ),
    "a test folder without classes": Row(
        [f"train/{('AD', 'NC')[i % 2]}/{i}_{k}.png" for i in IDS[:12] for k in range(70, 80)]
        + [f"test/{i}_{k}.png" for i in IDS[12:] for k in range(70, 80)],
        {f"test/{IDS[20]}_73.png": ("test", None, str(IDS[20]), 73)}, 24, 24,
    ),
    "subjects as letters": Row(
        [f"person_{name}/slice_{k}.png" for name in "ABC" for k in range(5 + ord(name) % 3, 30)],
        {"person_B/slice_10.png": (None, None, "person_B", 10)}, 3, 3,
    ),
    "subjects as letters, bare numbers": Row(
        [f"set/P {name}/{k:03d}.png" for name in "ABC" for k in range(40)],
        {"set/P B/010.png": (None, None, "P B", 10)}, 3, 3,
    ),
    "one person": Row([f"slice_{k}.png" for k in range(9)],
                      {"slice_3.png": (None, None, "1", 3)}, 1, 1),
    "numbered classes": Row(
        [f"{kind}/patient{p}/SR_{s}/IM{k:05d}.tif" for kind in ("covid1", "normal1")
         for p in range(1, 6) for s in (2, 3) for k in range(1, 7)],
        {"normal1/patient3/SR_2/IM00004.tif": (None, "normal1", "normal1/patient3", 4)}, 10, 20,
    ),
    "series of studies": Row(
        [f"train_images/{person}/{31 * person + 7 * s}/{k}.png" for person in IDS for s in range(3)
         for k in range(1, 9)],
        {f"train_images/{IDS[2]}/{31 * IDS[2] + 7}/3.png": (None, None, str(IDS[2]), 3)}, 24, 72,
    ),
    "many series of folders": Row(
        [f"train/{i}/study/sax_{s}/IM-{4000 + 31 * i + s}-{k:04d}.png" for i in range(1, 25)
         for s in range(5, 9) for k in range(1, 6)],
        {"train/7/study/sax_6/IM-4223-0003.png": (None, None, "7", 3)}, 24, 96,
    ),
    "views of a person": Row(
        [f"{20_000_000 + 26 * i + j}_{random.Random(i).getrandbits(64):016x}1a1_MG_{view}.png"
         for i in range(8) for j, view in enumerate(("L_CC", "L_ML", "R_CC", "R_ML"))], {}, 8, 32,
    ),
    "numbers of classes": Row(
        [f"{kind}/{kind[1:]}G{kind[0]} ({i}).png" for kind in ("0Normal", "1Doubtful", "2Mild")
         for i in range(1, 12)],
        {"2Mild/MildG2 (5).png": (None, "2Mild", "MildG2 (5)", None)}, 33, 33, ALONE,
    ),
    "folds": Row(
        [f"fold{fold}/{kind}/{fold}{i:03d}.jpg" for fold in range(1, 6)
         for kind in ("normal", "tumor") for i in range(12)],
        {"fold3/tumor/3005.jpg": (None, "tumor", "fold3/tumor/3005.jpg", None)}, 120, 120, ALONE,
    ),
    "a time before the level": Row(
        [f"P{i:02d}_20200101_{100_000 + 7919 * t + i}_{k:02d}.png" for i in range(1, 9)
         for t in range(2) for k in range(9)],
        {"P03_20200101_107922_04.png": (None, None, "P03", 4)}, 8, 16,
    ),
    "a set twice": Row(
        [f"{copy}{kind}/OAS1_{i:04d}_MR1_mpr-1_{k}.jpg" for copy in ("", "all/")
         for kind, first in (("Demented", 1), ("Healthy", 5)) for i in range(first, first + 4)
         for k in range(100, 110)],
        {"Demented/OAS1_0002_MR1_mpr-1_104.jpg": (None, "Demented", "OAS1_0002", 104)}, 8, 8, (),
        {"copies of files of the same names": 80},
    ),
    "augmented copies": Row(
        [f"{folder}/{kind}/{kind} ({i}).jpg" for folder in ("AugmentedSet", "Original")
         for kind in ("MildDemented", "NonDemented") for i in range(1, 12)],
        {"Original/NonDemented/NonDemented (3).jpg":
         (None, "NonDemented", "NonDemented (3)", None)}, 22, 22, ALONE, {"derivatives": 22},
    ),
    "superpixels": Row(
        [f"ISIC_{number}{kind}" for number in IDS for kind in (".jpg", "_superpixels.png")],
        {}, 24, 24, ALONE, {"label maps and masks": 24},
    ),
    "one level": Row([f"case_{i}.png" for i in range(9)],
                     {"case_3.png": (None, None, "case_3", None)}, 9, 9),
}  # fmt: skip


@pytest.mark.parametrize("title", SETS)
def test_names_are_understood(title):
    row = SETS[title]
    paths = list(row.paths)
    random.Random(1).shuffle(paths)
    understood = understand(paths, volumes=row.volumes)
    places = {place.path: place for place in understood.places}
    for path, meaning in row.means.items():
        if meaning is None:
            assert path not in places
            continue
        place = places[path]
        assert (place.split, place.attributes.get("class"), place.subject, place.level) == meaning
    assert len({place.subject for place in places.values()}) == row.subjects
    assert len({(place.subject, place.scan) for place in places.values()}) == row.cases
    ignored = {reason: len(found) for reason, found in understood.ignored.items()}
    assert ignored == row.ignored
    assert len(places) + sum(ignored.values()) == len(paths)
    notes = " ".join(understood.notes)
    assert all(word in notes for word in row.notes), notes
    if "worth nothing" not in row.notes:
        assert "worth nothing" not in notes


TWO_READINGS = [f"a_{i}_b_{k}.png" for i in range(1, 12) for k in range(1, 14)]
LABELLED = [f"C_{i:04d}_{int(i > 20)}.png" for i in range(1, 40)]
PEOPLE = [f"{name}/IMG_{k}.png" for name in ("anna", "bob", "carl") for k in range(9)]
FLAT_PEOPLE = [path.replace("/IMG", "") for path in PEOPLE]
TWICE = [f"S{i}/IMG_{k:03d}.png" for i in range(1, 4) for k in range(6)]


@pytest.mark.parametrize(
    "paths, rules, words",
    [
        (TWO_READINGS, Rules(), ("a_1_b_1.png", "subject or the level", "--subject", "--level")),
        (LABELLED, Rules(), ("C_0001_0.png", "subject or the level", "if there are levels")),
        (FLAT_PEOPLE, Rules(), ("anna", "subjects or classes", "--subject", "--class")),
        (PEOPLE, Rules(), ("anna", "subjects or classes", "--subject", "--class")),
        ([*TWICE, "S1/IMG_1.png"], Rules(), ("S1/IMG_001.png", "S1/IMG_1.png", "level 1")),
        ([*TWICE, "S1/IMG_001.jpg"], Rules(), ("S1/IMG_001.png", "S1/IMG_001.jpg")),
        (TWICE, Rules(subject="(("), ("--subject ((", "regular expression")),
        (TWICE, Rules(split="Z"), ("--split Z", "fits no name", "S1/IMG_000.png")),
        (TWICE, Rules(split="IMG"), ("S1/IMG_000.png", "--split", "train, validate or test")),
        (TWICE, Rules(level="IMG"), ("S1/IMG_000.png", "--level", "no number")),
        (["a.txt", "b/c.csv"], Rules(), ("no image", "a.txt")),
        ([], Rules(), ("no image",)),
    ],
)
def test_what_cannot_be_read_is_one_line(paths, rules, words):
    with pytest.raises(InputError) as error:
        understand(paths, rules)
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), error.value


def test_rules_of_the_user_go_first():
    rules = Rules(subject=r"a_(\d+)")
    places = {place.path: place for place in understand(TWO_READINGS, rules).places}
    assert places["a_7_b_7.png"][2:5] == ("7", "", 7)
    places = {place.path: place for place in understand(LABELLED, Rules(subject=r"_(\d+)_")).places}
    assert places["C_0030_1.png"][2:5] == ("0030", "", None)
    places = {place.path: place for place in understand(PEOPLE, Rules(class_="^[^/]+")).places}
    assert places["bob/IMG_3.png"].attributes == {"class": "bob"}
    assert places["bob/IMG_3.png"].level is None
    places = {place.path: place for place in understand(PEOPLE, Rules(subject="^[^/]+")).places}
    assert places["bob/IMG_3.png"][2:5] == ("bob", "", 3)
    flat = [f"{('train', 'test')[i > 6]}_{i}_{k}.png" for i in range(9) for k in range(9)]
    rules = Rules(split="^[a-z]+", subject=r"_(\d+)_", level=r"(\d+)\.png$")
    places = {place.path: place for place in understand(flat, rules).places}
    assert places["test_8_3.png"][1:5] == ("test", "8", "", 3)


def test_a_rule_chooses_a_contrast():
    paths = [f"{name}-{contrast}.nii.gz" for name in IXI for contrast in ("T1", "T2")]
    understood = understand(paths, Rules(subject=r"(IXI\d+)-.*-T1\."), volumes=True)
    assert len(understood.places) == 19 and {place.scan for place in understood.places} == {""}
    assert [len(found) for found in understood.ignored.values()] == [19]
