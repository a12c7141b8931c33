"""Mutations of CSV: cells, rows, columns, and the dialect."""

from __future__ import annotations

from random import Random

from tests.fuzz.trees import NUMBERS, WORDS

CELLS = ("", " ", "nan", "NaN", "inf", "-inf", "1e308", "1e-320", "-1", "0", "1e21", "9" * 400, "True", "false", "1,5", "1.000", "2.000.000",
    "1_000", "0x10", "²", "1e", '"', "'",
         '"1"', '"1', "1;2", "a|b", "#", "=1+1", "None", "NULL", "N/A", "-", "+5", " 5 ", "5.", ".5", "1700-01-01", "2200-01-01T00:00:00",
         "2024-13-45", "9999-12-31 23:59:59",
         "0001-01-01", "2024-01-01", "12:30", "\x00", "\x1b[31m", "\u2028", "\x0b", "\x85", "a" * 5000)  # fmt: skip


def mutate(text: str, random: Random) -> str:
    """The table, changed in one way."""
    lines = text.split("\n")
    mark = max(",;\t|", key=lines[min(1, len(lines) - 1)].count)
    rows = [line.rstrip("\r").split(mark) for line in lines if line]
    if not rows:
        return random.choice(CELLS)
    row = random.choice(rows)
    column = random.randrange(len(row))
    end = "\n"
    match random.randrange(22):
        case 0 | 1 | 2 | 3:
            row[column] = random.choice(CELLS) if random.random() < 0.7 else str(random.choice((*NUMBERS, *WORDS)))
        case 4:
            del row[column]
        case 5:
            row.insert(column, random.choice(CELLS))
        case 6:
            for other in rows[1:]:
                other.insert(random.choice((0, len(other))), random.choice(("1", "", "x")))
        case 7:
            for other in rows:
                other.append(other[min(column, len(other) - 1)])
        case 8:
            rows[0][min(column, len(rows[0]) - 1)] = random.choice((*WORDS, *rows[0], f" {rows[0][0]}", f"{rows[0][-1]} ", rows[0][0].upper()))
        case 9:
            rows.insert(random.randrange(len(rows)), list(row))
        case 10:
            rows.remove(row)
        case 11:
            random.shuffle(rows)
        case 12:
            rows[1:] = rows[:0:-1]
        case 13:
            value = random.choice(CELLS)
            for other in rows[1:]:
                if column < len(other):
                    other[column] = value
        case 14:
            for other in rows[1:]:
                if column < len(other):
                    other[column] = _scaled(other[column], random)
        case 15:
            mark = random.choice(",;\t|: ")
        case 16:
            end = random.choice(("\r\n", "\r", "\n\n", "\n\r\n", "\x0b", "\u2028\n"))
        case 17:
            rows.insert(
                random.randrange(len(rows) + 1),
                [random.choice(("# a comment", "sep=,", "sep=;", '"', '""', "," * random.choice((3, 1000)), " ", "\t", "#"))],
            )
        case 18:
            rows = rows[:1] if random.random() < 0.5 else rows[1:]
        case 19:
            rows = rows[:1] + rows[1:] * random.choice((2, 60))
        case 20:
            for other in rows:
                other[:] = [f'"{cell}"' for cell in other]
        case _:
            row[column] = "," * random.choice((1, 5, 20_000))
    return end.join(mark.join(row) for row in rows) + random.choice((end, end, end, ""))


def _scaled(cell: str, random: Random) -> str:
    try:
        return repr(float(cell) * random.choice((-1, 0, 1e-300, 1e300, 1e6, 1e-6, 0.999)))
    except ValueError:
        return cell[::-1]
