"""`python -m synthagent.monitoring`: writes metrics table, alert rules and dashboards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from synthagent.monitoring import catalogue, dashboards, rules


def written() -> dict[str, str]:
    """Every file that follows from this folder, by its path from the root of the project."""
    pages = {
        f"k8s/components/dashboards/{page.name}.json": dashboards.render(page)
        for page in dashboards.DASHBOARDS
    }
    return {
        "docs/metrics.md": catalogue.table(),
        "k8s/components/alerts/prometheus-rule.yaml": rules.prometheus_rule(),
        **pages,
    }


def main(
    root: Annotated[Path, typer.Option(help="Root of the project.", file_okay=False)] = Path(),
) -> None:
    """Writes docs/metrics.md and the components `alerts` and `dashboards` under k8s/."""
    for name, text in written().items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        typer.echo(f"wrote {name}")


if __name__ == "__main__":
    typer.run(main)
