"""Speed, as ratios measured side by side in one run: ``make bench``. One question a file; each has ``run(quick) -> list[dict]``."""
