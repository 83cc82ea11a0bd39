"""Who may call what, over which wire, how much of it, and what is written down about it.

`certificates` and `channels` are the two ends of TLS, `callers` says who calls, `access` what each
role may call, `limits` how much, `audit` who changed what; `gate` puts them in front of a server's
methods. Everything is off until settings name its files (docs/security.md), and what files say is
followed while the process runs: nothing here needs a restart.
"""
