"""Numbers to text and back, compiled: plain decimals out, any decimal in.

Out: a number is rounded to a whole number of its last decimal place (30.126 with two places is 3013),
half to even, and that is written: no exponent, no trailing zero, no -0.
In: a decimal of up to 19 digits is read as mantissa times a power of ten. Where both fit a float64
exactly the result is the nearest float64, which is what Python's `float` gives (W. D. Clinger, "How to
read floating point numbers accurately", 1990); elsewhere it is accepted if no neighbour within its
error rounds to another float32, and flagged for `float` if one does.
"""

import numpy as np

from pipeline.kernels.jit import inlined, kernel

# What is odd in a token. GOOD ones are done; the rest is read again by Python's float.
EXPONENT, NEGATIVE_ZERO, UNREAD = 1, 2, 4
SPACE, TAB, COMMA, NEWLINE, RETURN = 32, 9, 44, 10, 13
POWERS = 10.0 ** np.arange(23)  # exact in float64
_EXACT = np.uint64(2**53)
_ERROR = 4 * np.finfo(np.float64).eps
_FNV_START, _FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)


@inlined
def put_number(out, at, value, places):
    """Write value / 10**places at out[at:]; value is a non-negative whole number. Returns the end."""
    while places and value % 10 == 0:  # no trailing zeros
        value //= 10
        places -= 1
    length, rest = 1, value // 10
    while rest:
        rest //= 10
        length += 1
    length = max(length, places + 1)
    end = at + length + (places > 0)
    for k in range(end - 1, end - 1 - places, -1):
        out[k] = 48 + value % 10
        value //= 10
    if places:
        out[end - 1 - places] = 46
    for k in range(at + length - places - 1, at - 1, -1):
        out[k] = 48 + value % 10
        value //= 10
    return end


@inlined
def is_space(c):
    return c in (SPACE, TAB, RETURN)


@inlined
def parse_number(data, at, end):
    """(value, flags, stop) of the token that begins at data[at] and ends at a space or at `end`.

    With UNREAD the value is NaN.
    """
    flags, negative = 0, data[at] == 45
    at += negative or data[at] == 43
    mantissa, start = np.uint64(0), at
    while at < end and np.uint8(data[at] - 48) < 10:
        mantissa = mantissa * np.uint64(10) + np.uint64(data[at] - 48)
        at += 1
    digits, scale = at - start, 0
    if at < end and data[at] == 46:
        at += 1
        point = at
        while at < end and np.uint8(data[at] - 48) < 10:
            mantissa = mantissa * np.uint64(10) + np.uint64(data[at] - 48)
            at += 1
        scale = point - at
        digits -= scale
    if at < end and (data[at] == 101 or data[at] == 69):
        at += 1
        flags |= EXPONENT
        down = at < end and data[at] == 45
        at += at < end and (down or data[at] == 43)
        power, before = 0, at
        while at < end and np.uint8(data[at] - 48) < 10 and at - before < 4:
            power = power * 10 + data[at] - 48
            at += 1
        scale += -power if down else power
        if at == before:
            digits = 0
    clean = 0 < digits <= 19 and (at == end or is_space(data[at]))
    while at < end and not is_space(data[at]):
        at += 1
    if clean and mantissa == 0:
        return 0.0, flags | NEGATIVE_ZERO if negative else flags, at
    if not clean or scale < -22 or scale > 22:
        return np.nan, flags | UNREAD, at
    value = np.float64(mantissa)
    value = value / POWERS[-scale] if scale < 0 else value * POWERS[scale]
    if mantissa > _EXACT and np.float32(value * (1 - _ERROR)) != np.float32(value * (1 + _ERROR)):
        return np.nan, flags | UNREAD, at
    return (-value if negative else value), flags, at


@inlined
def hash_bytes(data, at, end):
    """FNV-1a, 64 bits."""
    value = _FNV_START
    for k in range(at, end):
        value = (value ^ np.uint64(data[k])) * _FNV_PRIME
    return value


@kernel
def hash_tokens(data, ends, hashes):
    """Hash each of the texts that lie end to end in `data`; ends (m,) uint64 out (m,)."""
    at = 0
    for k in range(len(ends)):
        hashes[k] = hash_bytes(data, at, ends[k])
        at = ends[k]


@kernel
def parse_tokens(data, starts, ends, offsets, fields, label_field, values, flags, hashes, first, last):
    """Parse the cells of the rows first..last into values[offsets[row]:...], one a token.

    With label_field >= 0 that field of each box is a name: its hash is kept, its value is NaN.
    """
    for row in range(first, last):
        k, end, token = starts[row], ends[row], 0
        while k < end:
            if is_space(data[k]):
                k += 1
                continue
            place = offsets[row] + token
            if label_field >= 0 and token % fields == label_field:
                stop = k
                while stop < end and not is_space(data[stop]):
                    stop += 1
                hashes[place] = hash_bytes(data, k, stop)
                values[place], flags[place] = np.nan, 0
            else:
                values[place], flags[place], stop = parse_number(data, k, end)
            token += 1
            k = stop


@kernel
def split_rows(data, starts, ends, commas, tokens, first, last):
    """Where the first commas of each line data[starts:ends] are, how many, and the tokens between them.

    commas (rows, columns): the first columns - 1, then their number; tokens (rows, columns).
    """
    columns = tokens.shape[1]
    for row in range(first, last):
        count, words, inside = 0, 0, False
        for k in range(starts[row], ends[row]):
            c = data[k]
            if c == COMMA:
                if count < columns - 1:
                    commas[row, count] = k
                    tokens[row, count] = words
                count += 1
                words, inside = 0, False
            else:
                space = is_space(c)
                words += not (space or inside)
                inside = not space
        commas[row, columns - 1] = count
        tokens[row, columns - 1] = words


@kernel
def put_rows(
    out,
    begin,
    end,
    boxes,
    scores,
    labels,
    floors,
    sides,
    fields,
    score_places,
    places,
    label_text,
    label_at,
    head,
    head_at,
    tail,
    tail_at,
    empty,
    first,
    last,
):
    """Write the rows first..last into `out`: head, boxes (or `empty`), tail.

    Row r has the boxes begin[r]..end[r] of boxes (n, 4), scores and labels; those below their class's
    floor, or without area or score once rounded, are left out. sides (rows, 2) is what coordinates are
    divided by. fields: 0 label, 1 score, 2..5 corners, 6..9 left, top, width, height. Returns how many
    characters and how many boxes were written.
    """
    at, written = 0, 0
    score_scale, scale = 10.0**score_places, 10.0**places
    value = np.empty(10, np.int64)
    for row in range(first, last):
        for k in range(head_at[row], head_at[row + 1]):
            out[at] = head[k]
            at += 1
        before = written
        for box in range(begin[row], end[row]):
            value[1] = np.int64(np.rint(np.float64(scores[box]) * score_scale))
            for k in range(4):
                value[2 + k] = np.int64(np.rint(np.float64(boxes[box, k]) / sides[row, k % 2] * scale))
            value[6], value[7] = value[2], value[3]
            value[8], value[9] = value[4] - value[2], value[5] - value[3]
            if value[8] <= 0 or value[9] <= 0 or value[1] <= 0 or scores[box] < floors[labels[box]]:
                continue
            for field in fields:
                if field == 0:
                    for k in range(label_at[labels[box]], label_at[labels[box] + 1]):
                        out[at] = label_text[k]
                        at += 1
                else:
                    at = put_number(out, at, value[field], score_places if field == 1 else places)
                out[at] = SPACE
                at += 1
            written += 1
        if written > before:
            at -= 1  # the space after the last
        else:
            for k in range(len(empty)):
                out[at] = empty[k]
                at += 1
        for k in range(tail_at[row], tail_at[row + 1]):
            out[at] = tail[k]
            at += 1
    return at, written
