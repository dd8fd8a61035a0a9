"""Tables from files: read as they were meant, or refused in one line."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from popgd.papers.power_method.looping import data as inference_data
from popgd.papers.power_method.looping import table
from popgd.problem.errors import SettingError

HEADER, INDEX = "the header", "the index column"


def read(tmp_path, content, name="points.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return table.read(path, "data")


#: What a file holds, the table in it and what was left out.
READ = {
    "numbers": ("0.5,-2\n+1e-3,.25\n", [[0.5, -2], [1e-3, 0.25]], []),
    "Windows": ("\ufeff0.5,2\r\n1,4.\r\n", [[0.5, 2], [1, 4]], []),
    "no end of line, blanks": ("0.5 , 2\n 1,4", [[0.5, 2], [1, 4]], []),
    "pandas": (",0,1,2\n0,0.5,2.0,3.0\n1,1.0,4.0,5.0\n", [[0.5, 2, 3], [1, 4, 5]], [HEADER, INDEX]),
    "pandas, some rows": (",0,1\n7,0.5,2.0\n3,1.0,4.0\n", [[0.5, 2], [1, 4]], [HEADER, INDEX]),
    "pandas, saved again": (
        "Unnamed: 0,0,1\n0,0.5,2.0\n1,1.0,4.0\n",
        [[0.5, 2], [1, 4]],
        [HEADER, INDEX],
    ),
    "pandas, names": (",x,y\na,0.5,2.0\nb,1.0,4.0\n", [[0.5, 2], [1, 4]], [HEADER, INDEX]),
    "pandas, named index": ("who,x,y\na,0.5,2.0\nb,1.0,4.0\n", [[0.5, 2], [1, 4]], [HEADER, INDEX]),
    "pandas, dates": (
        ",x,y\n2020-01-01,0.5,2.0\n2020-01-02,1.0,4.0\n",
        [[0.5, 2], [1, 4]],
        [HEADER, INDEX],
    ),
    "pandas, index=False": ("x,y\n0.5,2.0\n1.0,4.0\n", [[0.5, 2], [1, 4]], [HEADER]),
    "pandas, header=False": ("a,0.5,2.0\nb,1.0,4.0\n", [[0.5, 2], [1, 4]], [INDEX]),
    "pandas, series": (",0\n0,0.5\n1,2.0\n", [[0.5], [2]], [HEADER, INDEX]),
    "R": ('"","V1","V2"\n"1",0.5,2\n"2",1,4\n', [[0.5, 2], [1, 4]], [HEADER, INDEX]),
    "R, numbered columns": (
        '"","1","2"\n"1",0.5,2\n"2",1,4\n',
        [[0.5, 2], [1, 4]],
        [HEADER, INDEX],
    ),
    "R, row.names=FALSE": ('"V1","V2"\n0.5,2\n1,4\n', [[0.5, 2], [1, 4]], [HEADER]),
    "R, no header": ('"1",0.5,2\n"2",1,4\n', [[0.5, 2], [1, 4]], [INDEX]),
    "savetxt": ("5.0e-01,2.0e+00\n1.0e+00,4.0e+00\n", [[0.5, 2], [1, 4]], []),
    "savetxt, header": ("# x,y\n# two rows\n0.5,2\n1,4\n", [[0.5, 2], [1, 4]], ["2 comment lines"]),
    "savetxt, counting": ("0.0e+00,1.0e+00\n2.0e+00,3.0e+00\n", [[0, 1], [2, 3]], []),
    "one column": ("0.5\n2\n", [[0.5], [2]], []),
    "one column of 1, 2, 3": ("1\n2\n3\n", [[1], [2], [3]], []),
    "one row": ("0.5,2\n", [[0.5, 2]], []),
    "one row of 0, 1, 2": ("0,1,2\n", [[0, 1, 2]], []),
    "one number": ("3", [[3]], []),
}

#: What may be read in two ways, or in none, and what the line says of it.
REFUSED = {
    "pandas, index=False": (
        "0,1,2\n0.5,2,3\n1,4,5\n",
        "begins with the row 0, 1, 2, which may be data or a header",
    ),
    "pandas, series, index=False": (
        "0\n0.5\n2\n",
        "begins with the row 0, which may be data or a header",
    ),
    "numbered from 1": ("1,2\n0.5,2\n", "which may be data or a header"),
    "pandas, header=False": (
        "0,0.5,2\n1,1,4\n",
        "begins its rows with 0, 1, which may be data or an index",
    ),
    "R, no quotes": (
        "1,0.5,2\n2,1,4\n",
        "begins its rows with 1, 2, which may be data or an index",
    ),
    "numbers under names": (
        "id,x\n0,0.5\n1,2\n",
        "begins its rows with 0, 1, which may be data or an index",
    ),
    "numbers beside names": (
        "a,0,1\nb,0.5,2\n",
        "begins with the row a, 0, 1, which may be data or a header",
    ),
    "named index, numbered columns": ("id,0,1\na,0.5,2\nb,1,4\n", "may be data or a header"),
    "an index saved twice": (",Unnamed: 0,0\n0,0,0.5\n1,1,2\n", "an index that was saved twice"),
    "a hole in the corner": (",0.5,2\n1,4,5\n", "has nothing in its first cell"),
    "a hole and numbers": (",0,1\n0.5,2,3\n", "has nothing in its first cell"),
    "a column without a name": (",x,y\n0.5,2,3\n", "has nothing in its first cell"),
    "R, write.table": ('"V1","V2"\n"1",0.5,2\n', "has 3 cells in line 2 and 2 in line 1"),
    "a comment of numbers": ("# 0.5,2\n1,4\n", "begins line 1 with #, which may be data"),
    "a row that begins with #": ("0.5,2\n#1,4\n3,5\n", "begins line 2 with #"),
    "a labelled row that begins with #": ("#a,0.5,2\nb,1,4\n", "begins line 1 with #"),
    "a last line with #": ("0.5,2\n1,4\n# end\n", "begins line 3 with #"),
    "semicolons": ("0,5;2,0\n1,0;4,0\n", "has semicolons in it"),
    "semicolons and points": ("0.5;2\n1;4\n", "has semicolons in it"),
    "tabs": ("0.5\t2\n", "has tabs in it"),
    "blanks": ("0.5 2\n1 4\n", "has the text 0.5 2 in line 1, cell 1"),
    "ragged": ("0.5,2\n1\n", "has 1 cells in line 2 and 2 in line 1"),
    "empty cell": ("0.5,\n1,4\n", "has nothing in line 1, cell 2"),
    "trailing commas": ("0.5,2,\n1,4,\n", "ends every line with a comma: leave it out"),
    "one trailing comma": ("0.5,2,\n1,4,3\n", "has nothing in line 1, cell 3"),
    "decimal commas": ("0,5, -2,25\n1,0, 4,0\n", "writes 0,5 with a decimal comma: write 0.5"),
    "decimal commas, blanks": ("0,5 2,25e-3\n1,0 4,0\n", "writes 0,5 with a decimal comma"),
    "empty line": ("0.5,2\n\n1,4\n", "has nothing in line 2"),
    "nan": ("0.5,nan\n1,4\n", "has nan in line 1, cell 2: leave out what is missing"),
    "a first row of nan": ("nan,NaN\n1,4\n", "has nan in line 1, cell 1"),
    "a first column of NA": ("NA,4\nNA,5\n", "has NA in line 1, cell 1"),
    "quoted NA": ('0.5,"NA"\n', "has NA in line 1, cell 2"),
    "infinity": ("0.5,-inf\n1,4\n", "has -inf in line 1, cell 2: finite numbers"),
    "thousands": ('"1,234.5",2\n3,4\n', "a comma or a line break within quotes in line 1"),
    "decimal commas in quotes": (
        '"0,5","2,0"\n"1,0","4,0"\n',
        "a comma or a line break within quotes in line 1",
    ),
    "line break": ('"a\nb",2\n', "a comma or a line break within quotes in line 1"),
    "complex": ("1+2j,3\n2j,4\n", "has the text 1+2j in line 1, cell 1"),
    "hexadecimal": ("0.5,0x1p3\n", "has the text 0x1p3 in line 1, cell 2"),
    "Python's own": ("1_000,2\n", "has the text 1_000 in line 1, cell 1"),
    "digits of others": ("\u0661,2\n", "has the text \\u0661 in line 1, cell 1"),
    "per cent": ("5%,2%\n1,4\n", "has the text 5% in line 1, cell 1"),
    "quoted numbers": (
        '"0.5","2.5"\n"1.5","4.5"\n',
        'has "0.5" in line 1, cell 1: write numbers without quotes',
    ),
    "a quoted number": (
        '0.5,"2"\n1,4\n',
        'has "2" in line 1, cell 2: write numbers without quotes',
    ),
    "units": ("x,y\ncm,cm\n0.5,2\n", "has the text cm in line 2, cell 1"),
    "text": ("0.5,2\n1,many\n", "has the text many in line 2, cell 2"),
    "header alone": ("x,y\n", "has a header and no rows"),
    "nothing": ("", "is empty"),
    "comments alone": ("# x\n", "is empty"),
    "UTF-16": ("0.5,2\n".encode("utf-16"), "is no UTF-8 text"),
    "Latin": ("\xe4,2\n".encode("latin-1"), "is no UTF-8 text"),
}


@pytest.mark.parametrize(("content", "wanted", "left_out"), READ.values(), ids=READ)
def test_what_is_unambiguous_is_read(tmp_path, content, wanted, left_out):
    found = read(tmp_path, content)
    assert found.array.dtype == np.float64
    np.testing.assert_array_equal(found.array, np.array(wanted, dtype=float), strict=True)
    assert list(found.left_out) == left_out


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_is_refused_in_one_line(tmp_path, content, message):
    with pytest.raises(SettingError) as caught:
        read(tmp_path, content)
    assert str(caught.value).startswith(f"data={tmp_path / 'points.csv'} ") and message in str(
        caught.value
    )
    assert "\n" not in str(caught.value) and ": " in str(caught.value)


FLOATS = arrays(float, array_shapes(min_dims=2, max_dims=2, max_side=5),
                elements=st.floats(allow_nan=False, allow_infinity=False))  # fmt: skip


def written(X, header, index, numbers):
    """As pandas writes it, its numbers by repr: of rows and columns, or with names for both."""
    rows = [[repr(float(x)) for x in row] for row in X]
    names = lambda count, mark: [str(k) if numbers else f"{mark}{k}" for k in range(count)]
    if index:
        rows = [[name, *row] for name, row in zip(names(len(rows), "r"), rows, strict=True)]
    if header:
        rows.insert(0, [""] * index + names(X.shape[1], "c"))
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue()


@settings(max_examples=60)
@given(X=FLOATS, header=st.booleans(), index=st.booleans(), numbers=st.booleans())
def test_every_table_comes_back_bit_for_bit_or_is_refused(
    tmp_path_factory, X, header, index, numbers
):
    """Refused only where one of header and index, without the other, is made of numbers: never
    another table.
    """
    path = tmp_path_factory.getbasetemp() / "round.csv"
    path.write_text(written(X, header, index, numbers))
    ambiguous = numbers and ((header and not index) or (index and not header and len(X) > 1))
    try:
        found = table.read(path, "data")
    except SettingError as error:
        assert ambiguous and "may be data or" in str(error)
        return
    assert not ambiguous
    if not (
        numbers and index and not header
    ):  # one row that begins with 0: there is nothing to tell it by
        np.testing.assert_array_equal(found.array, X, strict=True)
        assert found.left_out == (HEADER,) * header + (INDEX,) * index


@settings(max_examples=30)
@given(X=FLOATS, header=st.sampled_from(["", "x,y", "of\nall runs"]))
def test_what_numpy_writes_comes_back_bit_for_bit(tmp_path_factory, X, header):
    path = tmp_path_factory.getbasetemp() / "numpy.csv"
    np.savetxt(path, X, delimiter=",", header=header)
    found = table.read(path, "data")
    np.testing.assert_array_equal(found.array, X, strict=True)
    assert bool(found.left_out) == bool(header)


NUMPY = {
    "Fortran": np.asfortranarray([[0.5, 2], [1, 4]]),
    "big-endian": np.array([[0.5, 2], [1, 4]], dtype=">f8"),
    "integers": np.array([[-1, 2**53]]),
    "unsigned": np.array([[1, 255]], dtype=np.uint8),
    "truth values": np.array([[True, False]]),
    "half": np.array([[0.1, 6e4]], dtype=np.float16),
    "long double": np.array([[0.5, 1e300]], dtype=np.longdouble),
    "scalar": np.array(2.5),
    "no entries": np.zeros((0, 3)),
}  # fmt: skip


@pytest.mark.parametrize("array", NUMPY.values(), ids=NUMPY)
def test_npy_arrays_of_every_real_kind(tmp_path, array):
    np.save(tmp_path / "x.npy", array)
    found = table.read(tmp_path / "x.npy", "query")
    assert found.array.dtype == np.float64 and found.array.dtype.isnative and found.left_out == ()
    np.testing.assert_array_equal(found.array, array.astype(float))


def test_a_long_double_beyond_float64_is_infinite(tmp_path):
    if np.finfo(np.longdouble).max == np.finfo(float).max:
        pytest.skip("no wider format here")
    np.save(tmp_path / "x.npy", np.array([[1, np.longdouble("1e4000")]]))
    with pytest.raises(SettingError, match="column 1 is not finite"):
        inference_data.load(tmp_path / "x.npy", normalise=True)


OTHERS = {
    "complex": np.array([1j]),
    "text": np.array(["0.5"]),
    "bytes": np.array([b"0.5"]),
    "times": np.array(["2020-01-01"], dtype="datetime64[D]"),
    "records": np.array([(0.5, 2)], dtype=[("x", float), ("y", int)]),
}


@pytest.mark.parametrize("array", OTHERS.values(), ids=OTHERS)
def test_npy_arrays_of_other_kinds_are_one_line(tmp_path, array):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(SettingError, match="real numbers were wanted") as caught:
        table.read(tmp_path / "x.npy", "data")
    assert "\n" not in str(caught.value)


def test_objects_and_more_than_one_array_are_one_line(tmp_path):
    np.save(tmp_path / "x.npy", np.array([0.5, None]), allow_pickle=True)
    with pytest.raises(SettingError, match=r"no \.npy array of numbers"):
        table.read(tmp_path / "x.npy", "data")
    with (tmp_path / "x.npy").open("wb") as file:
        np.save(file, np.eye(2))
        np.save(file, np.eye(2))
    with pytest.raises(SettingError, match="more than one array"):
        table.read(tmp_path / "x.npy", "data")


def test_the_report_says_what_was_left_out(tmp_path):
    (tmp_path / "points.csv").write_text("# seen\n,0,1\n0,3.0,0.0\n1,4.0,2.0\n")
    loaded = inference_data.load(tmp_path / "points.csv", normalise=True)
    np.testing.assert_allclose(loaded.X, [[0.6, 0], [0.8, 1]], rtol=1e-15)
    assert loaded.words.startswith(
        "data=points.csv, 2 x 2 without 1 comment line and the header and the index column, "
    )
    (tmp_path / "q.CSV").write_text("x\n3\n4\n")
    np.testing.assert_allclose(
        inference_data.load_query(tmp_path / "q.CSV", 2), [0.6, 0.8], rtol=1e-15
    )
