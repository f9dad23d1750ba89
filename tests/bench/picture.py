"""The picture: for each workload, the CPU of every server as a multiple of ours, on a logarithmic axis, as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

from tests.bench.servers import BY_NAME as SERVERS
from tests.bench.servers import FLOOR, other_loops
from tests.bench.targets import OURS, Figures
from tests.bench.workloads import BY_NAME as WORKLOADS

_WIDTH: Final = 980
_LEFT: Final = 320
_RIGHT: Final = 30
_TOP: Final = 84
_ROW: Final = 26
_LEAST, _MOST = 0.05, 100.0
_TICKS: Final = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
_COLORS: Final = {
    "asgiws": "#0b6e4f", "asgiws asyncio": "#4caf7d", "asgiws without C": "#a5d6b7", "asgiws with --admin": "#12a150",
    "asgiws dedicated, level 6": "#7a8f1a", "asgiws with zlib": "#b8c45a",
    "uvicorn websockets-sansio": "#1f4e9e", "uvicorn websockets": "#4f83cc", "uvicorn wsproto": "#9dbbe8",
    "granian": "#c0392b", "hypercorn": "#8e44ad", "daphne": "#b7950b", "gunicorn": "#5d6d7e",
    "anycorn": "#d98ec4", "socketify": "#148f77", "fastpysgi": "#7d6608",
    "picows": "#e67e22", "bare protocol": "#111111", "bare protocol asyncio": "#888888",
}  # fmt: skip


def draw(results: Mapping[str, Any]) -> str:
    """The whole picture; the same results give the same bytes."""
    figures = Figures(results)
    workloads = [name for name in results["cpu"] if figures.cpu(name, OURS)]
    names = [name for name in SERVERS if any(name in figures.servers(workload) for workload in workloads)]
    height = _TOP + _ROW * len(workloads) + 58
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        *_legend(names),
        *_axis(height - 58),
    ]
    for number, workload in enumerate(workloads):
        lines += _row(figures, workload, _TOP + _ROW * number + _ROW / 2)
    machine, others = results["machine"], other_loops(results.get("loops", {}))
    captions = (
        "server CPU for each unit of work, as a multiple of asgiws on uvloop (less is better; who takes more than "
        f"{_MOST:g} times as much stands at the edge)",
        f"Python {machine['python']}, {machine['system']}, {machine['processor']}; on uvloop{others and ', '}{others}; "
        "without compression where nothing else is said",
    )
    for place, caption in enumerate(captions):
        y = height - 26 + 16 * place
        lines.append(f'<text x="{_WIDTH / 2}" y="{y}" text-anchor="middle" fill="#333">{escape(caption)}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def _legend(names: list[str]) -> Iterator[str]:
    for number, name in enumerate(names):
        x, y = 20 + number % 5 * 190, 18 + number // 5 * 20
        yield _mark(name, x, y)
        yield f'<text x="{x + 12}" y="{y + 4}" fill="#333">{escape(name)}</text>'


def _axis(bottom: float) -> Iterator[str]:
    for tick in _TICKS:
        x = _place(tick)
        yield f'<line x1="{x}" x2="{x}" y1="{_TOP}" y2="{bottom}" stroke="{"#888" if tick == 1 else "#e4e4e4"}"/>'
        yield f'<text x="{x}" y="{bottom + 14}" text-anchor="middle" fill="#666">{tick:g}</text>'


def _row(figures: Figures, workload: str, y: float) -> Iterator[str]:
    mine = figures.cpu(workload, OURS) or 1.0
    title = escape(WORKLOADS[workload].described)
    yield f'<text x="{_LEFT - 20}" y="{y + 4}" text-anchor="end" fill="#333">{title}</text>'
    # asgiws last, so that nothing covers it
    for name in reversed(figures.servers(workload)):
        ratio = (figures.cpu(workload, name) or mine) / mine
        yield _mark(name, _place(ratio), y, f"{name}: {ratio:.2f}")


def _mark(name: str, x: float, y: float, title: str = "") -> str:
    color = _COLORS[name]
    inside = f"<title>{escape(title)}</title>" if title else ""
    if SERVERS[name].kind == FLOOR:
        place = f'x="{x - 4}" y="{y - 4}" width="8" height="8"'
        return f'<rect {place} fill="none" stroke="{color}" stroke-width="2">{inside}</rect>'
    return f'<circle cx="{x}" cy="{y}" r="5" fill="{color}">{inside}</circle>'


def _place(ratio: float) -> float:
    part = math.log(min(max(ratio, _LEAST), _MOST) / _LEAST) / math.log(_MOST / _LEAST)
    return round(_LEFT + part * (_WIDTH - _LEFT - _RIGHT), 1)
