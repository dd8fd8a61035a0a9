"""The settings that the theorems of this paper declare."""

from popgd.papers.power_method.looping.data import TEST_LAWS
from popgd.theorem.readers import file, flag, numbers, one_of, positive, run_directory, whole
from popgd.theorem.settings import Option

#: Those that make the law.
LAW = {
    "law": Option(
        None, one_of("uniform", "rotated"), "law of the data: uniform (Task 1) or rotated (Task 2)"
    ),
    "d": Option(None, whole(1), "data dimension"),
    "n": Option(None, whole(1), "number of data columns (default of the uniform law: 4 d)"),
    "spectrum": Option(
        None, numbers, "eigenvalues of S = X X^T; alone it implies law=rotated, d and n"
    ),
}
LOOPS = {"L": Option(3, whole(1), "number of loops")}
#: Of every descent along the manifold.
DESCENT = {
    "init": Option(
        "P21", one_of("P21", "Q12"), "the active block that starts at I; the other starts at 0"
    ),
    "spectra": Option(64, whole(2), "sampled spectra of a law whose spectrum is random"),
}
TARGET = {
    "target": Option(
        None,
        one_of("normalised", "unnormalised"),
        "y = Sq/|Sq| or Sq; unless told, both are judged",
    )
}
EXPONENT = {
    "claim.exponent": Option(
        None, positive, "judge this growth exponent of c instead of the theorem's; 1/3 is fine"
    )
}
#: What a stored run of a trained model may tell.
TRAINING = {**LAW, **LOOPS, **DESCENT, **TARGET, **EXPONENT}
SIZE = {
    "size": Option(
        1e-3, positive, "how far beside the manifold a descent starts whose end is looked at"
    )
}
#: Of trained models that are looped on other data.
LOOPING = {
    "data": Option(
        None, file, "test data of one's own: a .npy or .csv file (d, n), each column a data point"
    ),
    "normalise": Option(False, flag, "divide each column of `data` by its norm"),
    "test": Option(
        "all", one_of("all", *TEST_LAWS), "law of the test data: all, or " + ", ".join(TEST_LAWS)
    ),
    "query": Option(
        None,
        file,
        "a query of one's own instead of random ones: a .npy or .csv file with d numbers",
    ),
    "trained": Option(
        None, run_directory, "loop the model of this finished run directory instead of training one"
    ),
}
DEPTHS = {"loops": Option(50, whole(1), "how often the trained layer is looped on test data")}
