"""A sweep with Ray Tune whose results are JSON files in a folder, and whose next trial is planned from them.

Tune's own experiment state is thrown away. So a sweep goes on where its files end, whatever happened to Tune.
"""

import json
import os
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from ray import tune

from pareto_unlearn.sweep.store_searcher import ExhaustedError, FailureCallback, StoreSearcher

Config = dict[str, Any]
Results = dict[str, dict[str, Any]]
"""By the key of a trial: its config and what it reported."""
Propose = Callable[[Results, Collection[str]], tuple[str, Config] | None]
"""From results and the keys of trials that run: key and config of the next trial, None without one."""
MOST_TRIES = 3


class JsonFolder:
    """The work of a ``StoreSearcher``.

    Args:
        folder: where the results are and go.
        propose: says what comes next.
        measures: names of what a trial reports and a result keeps.
    """

    def __init__(self, folder: str | Path, propose: Propose, measures: tuple[str, ...]) -> None:
        self._folder, self._propose, self._measures = Path(folder), propose, measures
        self._folder.mkdir(parents=True, exist_ok=True)
        self._configs: dict[str, Config] = {}
        self._failures: list[str] = []

    @property
    def results(self) -> Results:
        """What is known, by the key of the trial."""
        return {file.stem: json.loads(file.read_text()) for file in sorted(self._folder.glob("*.json"))}

    def next(self, live: Collection[str]) -> tuple[str, Config] | None:
        """Return the next trial; see ``Work``."""
        given_up = {key for key in self._failures if self._failures.count(key) >= MOST_TRIES}
        proposed = self._propose(self.results, [*live, *given_up])
        if proposed is None and live:
            return None
        if proposed is None:
            raise ExhaustedError
        self._configs.setdefault(*proposed)
        return proposed

    def ended(self, key: str, result: Mapping[str, Any]) -> None:
        """Keep a result in a file that is there whole or not at all."""
        kept = {"config": self._configs[key]} | {name: result[name] for name in self._measures}
        unfinished = self._folder / f".{key}"
        unfinished.write_text(json.dumps(kept))
        unfinished.rename(self._folder / f"{key}.json")

    def failed(self, key: str, error: str) -> None:
        """Count a failure: the trial is proposed again until it has failed three times."""
        print(f"{key} failed: {error.strip().splitlines()[-1]}")
        self._failures.append(key)

    def run(self, trainable: Callable[[Config], Mapping[str, Any]]) -> Results:
        """Run all trials that are proposed, and return all results."""
        os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # with verbose=0 the old output prints nothing
        searcher = StoreSearcher(self)
        with tempfile.TemporaryDirectory() as thrown_away:
            tune.Tuner(
                trainable,
                tune_config=tune.TuneConfig(search_alg=searcher, num_samples=-1, reuse_actors=True),
                run_config=tune.RunConfig(
                    storage_path=thrown_away,
                    verbose=0,
                    failure_config=tune.FailureConfig(max_failures=0),
                    callbacks=[FailureCallback(searcher)],
                ),
            ).fit()
        return self.results
