"""Which layers are meant: names and numbers, as the options of the lenses take them.

In: `last`, `all`, or numbers such as `0,8,-1`. Out: layer numbers.
Be careful with their count: a backbone of 30 layers has states 0 (the input embedding) to 30 (after the final norm).
"""

from ..errors import InputError


def chosen_layers(wanted: str, last: int) -> list[int]:
    """Layers by name or number, of which negative ones count from the last.

    Args:
        wanted: `last`, `all`, or numbers with commas between them.
        last: number of the last layer.

    Raises:
        InputError: for anything else.
    """
    if wanted == "last":
        return [last]
    if wanted == "all":
        return list(range(last + 1))
    try:
        numbers = [int(part) for part in wanted.split(",")]
    except ValueError:
        raise InputError(f"layers are {wanted!r}; expected last, all, or numbers such as 0,8,-1") from None
    wrong = [number for number in numbers if not -last - 1 <= number <= last]
    if wrong:
        raise InputError(f"there is no layer {wrong[0]}; this backbone has 0 (the input) to {last} (after the last)")
    return [number % (last + 1) for number in numbers]
