"""8,192 problems of SimpleRL-Zoo."""

from verl_ext.data.dataset import Dataset
from verl_ext.data.sets import math_l3to5
from verl_ext.data.sources import Row


def read(row: Row) -> Row | None:
    """As `math_l3to5`'s; rows without an answer, of which the file is said to have two, are not drawn from."""
    plain = math_l3to5.read(row)
    return None if plain is not row and not plain["answer"] else plain


SET = Dataset(
    "simplerl_8k",
    "SimpleRL-Zoo, 8,192 problems of MATH's levels 3 to 5",
    "train",
    "boxed",
    math_l3to5.ZOO,
    read=read,
    rows=math_l3to5.ROWS,
    drawn=8192,
    validation="math500",
    text_answers=True,
    note=(
        "Version 2 of ESPO trains on 8,192 prompts of SimpleRL-Zoo (arXiv 2503.18892) and does not say which; the "
        "collection has three files of about 8,000. Ours: of the 8,523 of levels 3 to 5, which SimpleRL-Zoo's own "
        "script trains on in 8 full batches of 1,024 an epoch, those with the smallest keys. Not verified."
    ),
)
