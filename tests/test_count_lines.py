"""The count of lines of code."""

import count_lines


def test_lines_of_code():
    source = '"""Head.\n\nMore."""\n\n# why\nX = (  # a\n    1,\n\n    # b\n    2,\n)\n'
    source += 'def f():\n    """Doc."""\n    return """a\n\nb"""\n'
    assert count_lines.lines(source) == 4 + 1 + 3
