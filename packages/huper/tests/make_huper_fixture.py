"""Make the synthetic fixture of the tests: ``python packages/huper/tests/make_huper_fixture.py``.

Thirty short utterances of made-up words, spoken by espeak-ng 1.51, under a megabyte of FLAC. The
command takes some ten seconds; files that are there are kept.
"""

from pathlib import Path

from modicum.huper.simulate import EspeakWorld

FOLDER = Path(__file__).parent / "data" / "huper_world"
SPLITS = {"labelled": 24, "test": 6}


def world() -> EspeakWorld:
    """Return the world of which the fixture is a part."""
    return EspeakWorld("rules", seed=20, words=80, heldout=20, length=(2, 3))


if __name__ == "__main__":
    world().write(FOLDER, SPLITS, jobs=2)
    size = sum(path.stat().st_size for path in FOLDER.rglob("*.flac"))
    print(f"{FOLDER}: {size / 1e6:.2f} MB of FLAC")
