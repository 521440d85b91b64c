"""Follow a search from Python, with a callback that is called with every event.

An event has a `kind`, a human-readable `text`, and `fields` for programs.
"""

import sys

import autotune


class Progress:
    """Prints a bar for every epoch, and each plan that is the best so far."""

    def __init__(self) -> None:
        self.best = 0.0

    def __call__(self, event: autotune.Event) -> None:
        if event.kind == "progress-of-trial":
            value = event.fields["value"]
            print(f"trial {event.fields['number']} {'▇' * round(40 * value)} {value:.3f}")
        elif event.kind == "end" and (event.fields["value"] or 0) > self.best:
            self.best = event.fields["value"]
            print(f"Best so far: {event.fields['plan']}")
        elif event.kind == "warning":
            print(f"Note: {event.text}")


def main(out: str | None = None, **settings: int) -> None:
    progress = Progress()
    study = autotune.search(
        budget="1%", strategy="random", out=out, callbacks=[progress], **settings
    )
    print(f"Plan: {study.best.plan}, validation {study.best.value:.3f}, seen {progress.best:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
