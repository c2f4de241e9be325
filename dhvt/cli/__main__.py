"""``python -m dhvt.cli``: the same as ``dhvt``, for launchers of several processes."""

from dhvt.cli.main import run

if __name__ == "__main__":
    run()
