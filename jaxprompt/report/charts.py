"""Charts as numbers: scales, ticks and points in the units of a template's SVG."""

import dataclasses
import math
from collections.abc import Sequence

from jaxprompt.report import page

WIDTH, HEIGHT = 400, 230  # of a line chart's view box
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 14, 40  # margins that hold the labels
_BAR_LENGTH = 150
_MOST_POINTS = 400  # a line has; more are averaged, a screen has no room for them


@dataclasses.dataclass(frozen=True)
class Bar:
  """A value with its interval, from 0; in the view box's units."""

  name: str
  value: float
  interval: tuple[float, float]
  start: float
  length: float
  low: float
  high: float


def bars(values, intervals):
  """Returns a `Bar` for each of {name: value}, all to one scale.

  Args:
    values: {name: number}.
    intervals: {name: [low, high]}.
  """
  ends = [0, *values.values(), *(end for own in intervals.values() for end in own)]
  lowest = min(ends)
  scale = _BAR_LENGTH / ((max(ends) - lowest) or 1)
  return [
    Bar(
      name,
      value,
      tuple(intervals[name]),
      (min(value, 0) - lowest) * scale,
      abs(value) * scale,
      *((end - lowest) * scale for end in intervals[name]),
    )
    for name, value in values.items()
  ]


@dataclasses.dataclass(frozen=True)
class Point:
  """A value y at x, and the range that it stands for if there is one."""

  x: float
  y: float
  low: float | None = None
  high: float | None = None


@dataclasses.dataclass(frozen=True)
class Series:
  """A line: its name, its points by x, whether each point shows as a dot."""

  name: str
  points: Sequence[Point]
  dots: bool = False


@dataclasses.dataclass(frozen=True)
class Lines:
  """A line chart in view box units: ticks are (position, text)."""

  x_label: str
  y_label: str
  x_ticks: list[tuple[float, str]]
  y_ticks: list[tuple[float, str]]
  series: list[Series]
  mark: Point | None  # one point of note
  left: float = _LEFT
  right: float = WIDTH - _RIGHT
  top: float = _TOP
  bottom: float = HEIGHT - _BOTTOM


def lines(series, *, x_label, y_label, mark=None, log_x=False):
  """Returns the `Lines` of series, or None if they have no point.

  Args:
    series: `Series` in the data's units.
    x_label, y_label: what the axes measure.
    mark: a `Point` in the data's units, or None.
    log_x: whether x is on a logarithmic scale; then x > 0.
  """
  series = [dataclasses.replace(s, points=_thin(s.points)) for s in series if s.points]
  points = [point for s in series for point in s.points] + ([mark] if mark else [])
  if not points:
    return None
  xs = [point.x for point in points]
  ys = [y for p in points for y in (p.y, p.low, p.high) if y is not None]
  x_ticks = sorted(set(xs)) if log_x else _ticks(min(xs), max(xs), least=1)
  y_ticks = _ticks(min(ys), max(ys))
  across = math.log if log_x else float
  scale_x = _scale(across, min(xs), max(xs), _LEFT + 8, WIDTH - _RIGHT - 8)
  low, high = min(*ys, y_ticks[0]), max(*ys, y_ticks[-1])
  scale_y = _scale(float, low, high, HEIGHT - _BOTTOM, _TOP)

  def place(point):
    ends = (None if y is None else scale_y(y) for y in (point.low, point.high))
    return Point(scale_x(point.x), scale_y(point.y), *ends)

  return Lines(
    x_label,
    y_label,
    [(scale_x(x), page.count(x) if log_x else f'{x:,.0f}') for x in x_ticks],
    [(scale_y(y), f'{y:.5g}') for y in y_ticks],
    [dataclasses.replace(s, points=[place(p) for p in s.points]) for s in series],
    place(mark) if mark else None,
  )


def _thin(points):
  """Averages neighbours until a line has few enough points; the ends stay near."""
  size = -(-len(points) // _MOST_POINTS)
  if size == 1:
    return points
  groups = [points[i : i + size] for i in range(0, len(points), size)]
  return [
    Point(sum(p.x for p in group) / len(group), sum(p.y for p in group) / len(group))
    for group in groups
  ]


def _scale(across, low, high, start, end):
  """Returns the function from [low, high] to [start, end]; one value goes half-way."""
  span = across(high) - across(low)
  if not span:
    return lambda value: (start + end) / 2
  return lambda value: round(
    start + (end - start) * (across(value) - across(low)) / span, 1
  )


def _ticks(low, high, least=0.0):
  """Returns about five round numbers from low to high, `least` apart or more."""
  if low == high:
    return [low]
  rough = (high - low) / 5
  power = 10 ** math.floor(math.log10(rough))
  step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
  step = max(step, least)
  first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
  return [i * step for i in range(first, last + 1)] or [low, high]
