"""Words and signs that names of files are made of."""

import re

_IMAGES = r"\.(?:png|jpe?g|jfif|tiff?|bmp|nii(?:\.gz)?)"
_VOLUMES = r"\.(?:nii(?:\.gz)?|mg[zh]|hdr)"
ENDINGS = {False: re.compile(_IMAGES + "$", re.I), True: re.compile(_VOLUMES + "$", re.I)}
SYSTEM = re.compile(r"(?:^|/)(?:\.|__MACOSX/|(?:thumbs\.db|desktop\.ini|@eaDir)(?:$|/))", re.I)

# Names of splits as directories have them, in one word: Training, valid, testset, imagesTr.
SPLITS = {
    "train": re.compile(r"[Tt]r|(?i:trn|train|training)(?:data|sets?|images?)?"),
    "validate": re.compile(r"(?i:val|valid|validate|validation|dev)(?:data|sets?|images?)?"),
    "test": re.compile(r"[Tt]s|(?i:tst|test|testing)(?:data|sets?|images?)?"),
}
CAMEL_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def _words(pattern):
    """A pattern for whole words, between other signs or inCamelCase."""
    start = r"(?:(?<![^\W\d_])|(?<=[a-z])(?=[A-Z]))"
    return re.compile(rf"{start}(?i:{pattern})(?![a-z])")


# Words of files that lie beside images and show none.
LABELS = _words(
    r"(?:[a-z]*mask|msk|label|lbl|annotation|contour|roi|prob(?!and)[a-z]*|tissue)(?:s|maps?)?"
    r"|[a-z]*seg(?:s|m|mentations?)?|gt|ground|groundtruth|[a-z]*parc|parcellations?|ribbon|pve"
    r"|readers?|raters?|superpixels?"
)
TISSUE = re.compile(r"(?:^|/)m?w?r?c[1-6](?=[a-z])[^/]*$", re.I)  # of SPM, as in c1sub-01_T1w.nii
# What was made of images, and, of BIDS, images that are not anatomical. Where all files are of one
# kind, the next tells them apart.
DERIVED = [
    re.compile(pattern, re.I)
    for pattern in (
        r"(?:^|/)(?:derivatives|func|dwi|fmap|perf)/",
        "_space-",
        "_desc-",
        r"(?:^|[/_ -])augmented(?![a-z])|(?:^|/)augmented[^/]*/",
    )
]
# What programs add to the name of an image to name what they made of it: ms01_T1, y_s01_T1,
# p1s01_T1 of s01_T1 (SPM, CAT12), s01_T1_N4, s01_T1_2mm.
PREFIX = re.compile(r"[aimnrsuw]{1,4}|m?w?r?[cp][0-6]|i?y_|BiasField_", re.I)
SUFFIX = re.compile(r"[-_.](?:n[34]|\d+(?:\.\d+)?mm|mni\d*[a-z]*)$", re.I)
# Words of processed copies. Of several copies of a scan the one with the fewest is taken.
PROCESSED = _words(
    r"[a-z]*(?:brain|norm|norm[a-z]*linear|nu|mni[a-z]*|restored?|aligned|warp|warped|regist[a-z]+"
    r"|reg|stripp?ed|bet|preproc[a-z]*|correct[a-z]*|smooth[a-z]*|resampled?|rawavg|filled|wm|gm"
    r"|csf|masked)"
)

# Words that tell scans of one subject apart: contrast, side, plane, visit.
_CONTRAST = (
    r"(?:(?:c?t1|t2|pd)(?:w|wi|ce|c|gd|n|f|post|pre|km)?\+?"
    r"|mp2?rage|f?spgr|flair|dwi|adc|swi|bold|mra|dti|asl|ir|stir|dess|pet|ct)(?![^\W_])"
)
_KNOWN = (
    r"(?:left|right|lh|rh|axial|coronal|sagittal|baseline|followup|screening|pre|post)(?![^\W_])"
)
SCAN_WORD = re.compile(f"{_CONTRAST}|{_KNOWN}", re.I)
# Directories that are neither subjects nor classes: scans, and parts of a set, as fold_3.
NO_CLASS = re.compile(
    rf"{_CONTRAST}|{_KNOWN}|(?:fold|part|subset|batch|chunk|images?|dis[ck])[-_ ]*\d+", re.I
)
# Words before numbers that tell scans of one subject apart.
SCAN_LABEL = re.compile(
    r"weeks?|wk|months?|days?|years?|yr|visits?|vis|ses|sessions?|scans?|runs?|mr|mpr|echo|tp"
    r"|timepoints?|series|time|date|rep|repeats?|frame|phase"
)
LONG_NUMBER = re.compile(r"(?!(?:19|20)\d\d[01]\d[0-3]\d$)\d{5,}")  # and no date
CLASS_LABEL = re.compile(r"(?:class|grade|stage|type|cdr|kl|group)(?![a-z])", re.I)
CLASS_WORD = re.compile(
    r"normal|health|control|tumou?r|oma(?![a-z])|dement|cancer|benign|malign|covid|pneumon|disease"
    r"|lesion|alzheimer|(?<![a-z])(?:yes|no|pos|neg|ad|e?l?mci|cn|nc|hc|abnormal)(?![a-z])",
    re.I,
)

# Ways to write a subject or a level that the numbers alone do not tell. The group is taken out of
# the path, and the rule reads the rest.
_PATTERNS = (
    r"(?<![^/])(?P<subject>sub-[a-z0-9]+)",  # BIDS
    r"(?<!\d)(?P<subject>\d{3}_S_\d{4})(?!\d)",  # ADNI
    r"(?P<subject>OAS\d_?\d{4})(?!\d)",  # OASIS
    r"(?P<subject>[^/\d]+)/mri/(?:orig/)?[^/]+\.mg[zh]$",  # FreeSurfer, of persons without numbers
    r"(?<![^\W\d_])(?P<subject>(?:case|sub|subj|subject|patient|pat|pt|person"
    r"|participant|proband|volunteer)s?[-_ ]*(?:no|nr|id)?[-_. ]*\d+)",
    r"(?<![^\W\d_])(?:slice|slc|sl|level|lvl|z|schicht|coupe|corte)s?[-_ =]*"
    r"(?:no|nr|id)?[-_. ]*(?P<level>\d+)",
)
PATTERNS = [re.compile(pattern, re.I) for pattern in _PATTERNS]

# Numbers in parentheses at the end count files that had one name: 26.jpg, 26 (2).jpg, 26 (3).jpg.
COPY = re.compile(r"\s*\(\d+\)(?=\.[^/]*$)")
TOKEN = re.compile(
    rf"\((?P<copy>\d+)\)$|(?<![^\W\d_])(?:(?P<contrast>(?i:{_CONTRAST}))|(?P<scan>(?i:{_KNOWN})))"
    r"|(?<![^\W_])(?P<hash>(?=[0-9a-f]*\d[a-f]+\d)[0-9a-f]{8,}(?:-[0-9a-f]{4,})*)(?![^\W_])"
    r"|(?<!\d)(?P<date>(?:19|20)\d\d(?P<sign>[-_.]?)(?:0[1-9]|1[0-2])(?P=sign)(?:[0-2]\d|3[01]))"
    r"(?!\d)"
    r"|(?P<number>\d+)|(?P<word>[^\W\d_]+)"
)
