"""Sums, products and powers of answers: of plain values, and of matrices.

    [1 2] + [3 4] = [4 6]      2 [1 2] = [2 4]      rows times columns
"""

from grading.algebra import Algebra, CannotTell
from grading.structures import Infinity, Structure, as_value, kind_of


def negative(algebra: Algebra, x):
    if isinstance(x, Infinity):
        return Infinity(-x.sign)
    if kind_of(x) == "based":
        digits, base, sign = x.parts
        return Structure("based", (digits, base, -sign))
    return multiply(algebra, algebra.number(-1), x)


def add(algebra: Algebra, x, y):
    if kind_of(x) == "matrix" == kind_of(y):
        if [len(row) for row in x.parts] != [len(row) for row in y.parts]:
            raise CannotTell("a sum of matrices of different shapes")
        pairs = [zip(*rows, strict=True) for rows in zip(x.parts, y.parts, strict=True)]
        return Structure("matrix", tuple(tuple(add(algebra, a, b) for a, b in row)
                                         for row in pairs))
    return algebra.add(as_value(x), as_value(y))


def multiply(algebra: Algebra, x, y):
    if kind_of(x) == "matrix" == kind_of(y):
        columns = list(zip(*y.parts, strict=True))
        if any(len(row) != len(y.parts) for row in x.parts):
            raise CannotTell("a product of matrices that do not fit")
        return Structure("matrix", tuple(tuple(dot(algebra, row, column) for column in columns)
                                         for row in x.parts))
    for matrix, factor in ((x, y), (y, x)):
        if kind_of(matrix) == "matrix":
            return Structure("matrix", tuple(tuple(multiply(algebra, as_value(factor), entry)
                                                   for entry in row) for row in matrix.parts))
    return algebra.multiply(as_value(x), as_value(y))


def dot(algebra: Algebra, row, column):
    total = algebra.number(0)
    for a, b in zip(row, column, strict=True):
        total = algebra.add(total, algebra.multiply(as_value(a), as_value(b)))
    return total


def power(algebra: Algebra, x, exponent):
    if kind_of(x) != "matrix":
        return algebra.power(as_value(x), exponent)
    n = algebra.rational(exponent)
    if n is None or n not in range(1, 9):
        raise CannotTell("a power of a matrix other than 1 to 8")
    result = x
    for _ in range(int(n) - 1):
        result = multiply(algebra, result, x)
    return result
