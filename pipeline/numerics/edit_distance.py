"""Edit distance: how many characters must change to turn one text into another."""


def distance(one: str, two: str) -> int:
    """Insertions, deletions and substitutions of single characters (Levenshtein).

    Columns of the table are bits of one integer (Myers 1999, in the form of Hyyroe 2003), so the
    work is one step a character of the longer text.
    """
    if len(two) < len(one):
        one, two = two, one
    if not one:
        return len(two)
    where: dict[str, int] = {}
    for i, character in enumerate(one):
        where[character] = where.get(character, 0) | (1 << i)
    full, last = (1 << len(one)) - 1, 1 << (len(one) - 1)
    plus, minus, found = full, 0, len(one)
    for character in two:
        equal = where.get(character, 0)
        diagonal = equal | minus
        across = (((equal & plus) + plus) ^ plus) | equal
        up = minus | (full & ~(across | plus))
        down = plus & across
        found += bool(up & last) - bool(down & last)
        up, down = (up << 1) | 1, down << 1
        plus = full & (down | ~(diagonal | up))
        minus = full & up & diagonal
    return found


def similarity(one: str, two: str) -> float:
    """1 - distance / length of the longer text, white space collapsed: 1 = the same text."""
    one, two = " ".join(one.split()), " ".join(two.split())
    longest = max(len(one), len(two))
    return 1.0 - distance(one, two) / longest if longest else 1.0
