"""What operators look at: the table of metrics, alert rules and dashboards, each made from data.

`python -m synthagent.monitoring` writes what follows from this folder: docs/metrics.md and the
components `alerts` and `dashboards` under k8s/. Tests compare the committed files with it, have
Prometheus evaluate every expression, and make every alert fire and resolve.
"""
