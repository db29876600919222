"""The compiled part of `balance.py`: greedy assignment of units to folds, and the swap search."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.kernels.jit import inlined, kernel

Ints = NDArray[np.int64]


class UnitRows(NamedTuple):
    """The counts of each unit that are not zero: unit u has the entries starts[u]:starts[u + 1].

    columns, amounts: one per entry. size (units,): images in each unit.
    """

    starts: Ints
    columns: Ints
    amounts: Ints
    size: Ints


class Targets(NamedTuple):
    """What a fold should hold of each column, (columns,): a number from low to high, and what else costs."""

    low: Ints
    high: Ints
    weight: NDArray[np.float64]
    missing: NDArray[np.float64]


class Assignment(NamedTuple):
    """The split so far, which is changed in place.

    fold (units,), -1 for none; held (folds, columns): the sums of counts; sizes (folds,): images.
    """

    fold: NDArray[np.int32]
    held: Ints
    sizes: Ints


@kernel
def to_rows(counts):
    """(units, columns) counts -> starts, columns, amounts of what is not zero."""
    n, width = counts.shape
    starts = np.zeros(n + 1, np.int64)
    for u in range(n):
        filled = 0
        for c in range(width):
            filled += counts[u, c] != 0
        starts[u + 1] = starts[u] + filled
    columns = np.empty(starts[n], np.int64)
    amounts = np.empty(starts[n], np.int64)
    place = 0
    for u in range(n):
        for c in range(width):
            if counts[u, c] != 0:
                columns[place], amounts[place] = c, counts[u, c]
                place += 1
    return starts, columns, amounts


@kernel
def to_columns(starts, columns, width):
    """The units that hold each column: column c has units place[c] to place[c + 1]."""
    place = np.zeros(width + 1, np.int64)
    for c in columns:
        place[c + 1] += 1
    place = np.cumsum(place)
    filled = place[:-1].copy()
    units = np.empty(len(columns), np.int64)
    for u in range(len(starts) - 1):
        for e in range(starts[u], starts[u + 1]):
            units[filled[columns[e]]] = u
            filled[columns[e]] += 1
    return place, units


@kernel
def largest_share(units, totals):
    """(units,) the largest share of any column that each unit holds: units of rare classes come first."""
    share = np.zeros(len(units.starts) - 1)
    for u in range(len(share)):
        for e in range(units.starts[u], units.starts[u + 1]):
            share[u] = max(share[u], units.amounts[e] / totals[units.columns[e]])
    return share


@inlined
def _cost(number, low, high, weight, missing):
    """Cost of a fold that holds `number` of a column."""
    away = number - high if number > high else low - number if number < low else 0
    return weight * away * away + (missing if number == 0 else 0.0)


@inlined
def _move(u, k, units, split):
    """Move unit u to fold k, out of the fold that it is in."""
    before = split.fold[u]
    for e in range(units.starts[u], units.starts[u + 1]):
        split.held[k, units.columns[e]] += units.amounts[e]
        if before >= 0:
            split.held[before, units.columns[e]] -= units.amounts[e]
    split.sizes[k] += units.size[u]
    if before >= 0:
        split.sizes[before] -= units.size[u]
    split.fold[u] = k


@kernel
def assign_greedily(units, order, targets, low_size, high_size, split):
    """Put each unit where the classes need it most, as long as folds of a fair size remain possible."""
    held, sizes, size = split.held, split.sizes, units.size
    n_folds = len(sizes)
    spare = max(size.sum() - low_size * n_folds, 0)  # folds that may hold one image more
    for place in range(len(order)):
        u = order[place]
        full = 0
        for k in range(n_folds):
            full += sizes[k] > low_size
        best, best_cost = -1, np.inf
        for k in range(n_folds):
            limit = low_size if full >= spare and sizes[k] <= low_size else high_size
            if sizes[k] + size[u] > limit:
                continue
            change = 0.0
            for e in range(units.starts[u], units.starts[u + 1]):
                c = units.columns[e]
                # Towards the even share and not only to the range: later units must fit too.
                need = (targets.low[c] + targets.high[c]) * 0.5 - held[k, c]
                change += targets.weight[c] * units.amounts[e] * (units.amounts[e] - 2 * need)
                change -= targets.missing[c] if held[k, c] == 0 else 0.0
            if change < best_cost or (change == best_cost and sizes[k] < sizes[best]):
                best, best_cost = k, change
        if best < 0:
            best = np.argmin(sizes)
        _move(u, best, units, split)


@kernel
def even_sizes(units, order, split):
    """Move units from the largest fold to the smallest while that brings the two closer.

    It ends with folds within the largest unit of each other, and none empty.
    """
    sizes, size = split.sizes, units.size
    moved = True
    while moved:
        moved = False
        large, small = np.argmax(sizes), np.argmin(sizes)
        gap = sizes[large] - sizes[small]
        best = -1
        for place in range(len(order) - 1, -1, -1):
            u = order[place]
            if split.fold[u] == large and size[u] < gap:
                after = abs(gap - 2 * size[u])
                if best < 0 or after < abs(gap - 2 * size[best]):
                    best = u
        if best >= 0:
            _move(best, small, units, split)
            moved = True


@inlined
def _draw(state, n):
    """A number from 0 to n - 1 (xorshift64*); `state` (1,) uint64 is changed."""
    x = state[0]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    state[0] = x
    return np.int64(((x * np.uint64(2685821657736338717)) >> np.uint64(33)) % np.uint64(n))


@inlined
def _unit_of(k, first, last, units, fold, state, tries):
    """A random unit of fold k among units[first:last], or -1; all units where `units` is empty."""
    for _ in range(tries):
        place = first + _draw(state, last - first)
        u = units[place] if len(units) else place
        if fold[u] == k:
            return u
    return -1


@inlined
def _add_change(u, sign, units, change, touched, n):
    """Add sign * the counts of unit u to `change`; `touched[:n]` are the columns in it. Returns n."""
    for e in range(units.starts[u], units.starts[u + 1]):
        c = units.columns[e]
        if change[c] == 0:
            touched[n] = c
            n += 1
        change[c] += sign * units.amounts[e]
    return n


@kernel
def swap_search(units, column_starts, column_units, targets, split, trials, seed):
    """Swap units between a fold that has more of a column and one that has less, worst columns first."""
    fold, held, sizes, size = split.fold, split.held, split.sizes, units.size
    low, high, weight, missing = targets.low, targets.high, targets.weight, targets.missing
    n_folds, width = held.shape
    n = len(size)
    if width == 0:
        return
    state = np.array([seed], np.uint64)
    everything = np.empty(0, np.int64)
    cost = np.zeros(width)
    for c in range(width):
        for k in range(n_folds):
            cost[c] += _cost(held[k, c], low[c], high[c], weight[c], missing[c])
    smallest, largest = sizes.min(), sizes.max()
    change = np.zeros(width, np.int64)
    touched = np.empty(2 * width, np.int64)
    for _ in range(trials):
        worst = -1  # of three columns at random
        for _ in range(3):
            c = _draw(state, width)
            if cost[c] > 0 and (worst < 0 or cost[c] > cost[worst]):
                worst = c
        if worst < 0:
            if cost.max() <= 0:
                break
            worst = np.argmax(cost)
        a, b = _draw(state, n_folds), _draw(state, n_folds)
        if _draw(state, 2) == 0:  # else any two: one unit too large can hold the top for good
            for k in range(n_folds):
                if held[k, worst] > held[a, worst]:
                    a = k
                if held[k, worst] < held[b, worst]:
                    b = k
        if held[a, worst] < held[b, worst]:
            a, b = b, a
        if held[a, worst] == held[b, worst]:
            continue
        u = _unit_of(
            a, column_starts[worst], column_starts[worst + 1], column_units, fold, state, 4 * n_folds
        )
        v = _unit_of(b, 0, n, everything, fold, state, 4 * n_folds)
        if u < 0 or v < 0:
            continue
        growth = size[u] - size[v]
        if sizes[a] - growth < smallest or sizes[b] + growth > largest:
            continue
        if sizes[b] + growth < smallest or sizes[a] - growth > largest:
            continue
        filled = _add_change(u, 1, units, change, touched, 0)
        filled = _add_change(v, -1, units, change, touched, filled)
        delta = 0.0
        for i in range(filled):
            c = touched[i]
            d = change[c]
            if d != 0:
                delta += _cost(held[a, c] - d, low[c], high[c], weight[c], missing[c])
                delta += _cost(held[b, c] + d, low[c], high[c], weight[c], missing[c])
                delta -= _cost(held[a, c], low[c], high[c], weight[c], missing[c])
                delta -= _cost(held[b, c], low[c], high[c], weight[c], missing[c])
        if delta <= 0:
            _move(u, b, units, split)
            _move(v, a, units, split)
            for i in range(filled):
                c = touched[i]
                cost[c] = 0.0
                for k in range(n_folds):
                    cost[c] += _cost(held[k, c], low[c], high[c], weight[c], missing[c])
        for i in range(filled):
            change[touched[i]] = 0
