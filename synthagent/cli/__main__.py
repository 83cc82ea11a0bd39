"""`python -m synthagent.cli`."""

from synthagent.cli import main

if __name__ == "__main__":
    main()
