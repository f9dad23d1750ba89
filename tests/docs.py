"""The tables of the READMEs, made from the code: `python -m tests.docs` writes them, `tests/test_docs.py` compares."""

from __future__ import annotations

from pathlib import Path

from asgiws.config.option import spelled
from asgiws.config.options import OPTIONS, Config
from asgiws.protocol.errors import RULES
from asgiws.telemetry.prometheus import METRICS
from tests.bench import many_table, storm
from tests.bench.brokers import brokers_table
from tests.bench.report import figures_section, front_page_ratios
from tests.clients.test_same_as_uvicorn import DIFFERENCES

ROOT = Path(__file__).parent.parent


def options_table() -> str:
    """Return the options as a Markdown table, in the order of the code."""
    defaults = Config()
    lines = ["| option | default | what it does |", "|---|---|---|"]
    group = ""
    for name, option in OPTIONS.items():
        if option.group != group:
            group = option.group
            lines.append(f"| **{group}** | | |")
        aliases = "".join(f" [`--{alias}`]" for alias in option.aliases)
        value = option.placeholder.replace("|", "\\|")
        flag = f"`{spelled(name)} {value}`" if value else f"`{spelled(name)}`"
        lines.append(f"| {flag}{aliases} | {option.describe_default(getattr(defaults, name))} | {option.help} |")
    return "\n".join(lines)


def rules_table() -> str:
    """Return the rules that a peer can break as a Markdown table."""
    lines = ["| name | code | rule | section |", "|---|---|---|---|"]
    lines += [f"| `{rule.name}` | {rule.code} | {rule.text} | {rule.section} |" for rule in RULES.values()]
    return "\n".join(lines)


def metrics_table() -> str:
    """Return the metrics as a Markdown table."""
    lines = ["| name | kind | labels | what it says |", "|---|---|---|---|"]
    for metric in METRICS:
        kind = "gauge" if metric.kind == "worker" else metric.kind
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {kind} | {labels} | {metric.help} |")
    return "\n".join(lines)


def differences_list() -> str:
    """Return how answers differ from uvicorn's as a Markdown list."""
    return "\n".join(f"* {difference.reason}" for difference in DIFFERENCES)


def reconnect_code() -> str:
    """Return the demo's script as a block of code."""
    return f"```js\n{(ROOT / 'asgiws/demo/reconnect.js').read_text().rstrip()}\n```"


TABLES = (
    ("README.md", "ratios", front_page_ratios),
    ("asgiws/config/README.md", "options", options_table),
    ("deploy/from-uvicorn.md", "differences", differences_list),
    ("asgiws/protocol/README.md", "rules", rules_table),
    ("tests/bench/README.md", "figures", figures_section),
    ("tests/bench/README.md", "brokers", brokers_table),
    ("tests/bench/README.md", "storm", storm.published_table),
    ("tests/bench/README.md", "many", many_table.published_table),
    ("asgiws/admin/README.md", "metrics", metrics_table),
    ("asgiws/topics/README.md", "reconnect", reconnect_code),
)


def with_table(text: str, mark: str, table: str) -> str:
    """Return a document with the table between its marks replaced."""
    before, begin, rest = text.partition(f"<!-- {mark} -->\n")
    _, end, after = rest.partition(f"<!-- /{mark} -->")
    if not end:
        raise ValueError(f"the marks of {mark} are missing")
    return f"{before}{begin}{table}\n{end}{after}"


def main() -> None:
    """Write the tables into the documents."""
    for name, mark, make in TABLES:
        path = ROOT / name
        path.write_text(with_table(path.read_text(), mark, make()))


if __name__ == "__main__":
    main()
