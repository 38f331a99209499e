from __future__ import annotations

from typing import TYPE_CHECKING

from tests.gpu import needs
from tests.gpu.part import Estimate, Part

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

NOTHING = Estimate(0, 0, 0, "")


def install(folder: Path, name: str, *requirements: str) -> None:
    """A package as `pip install --target --no-deps` leaves it."""
    (folder / f"{name}.py").write_text("")
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0"]
    lines += [f"Requires-Dist: {required}" for required in requirements]
    (metadata / "METADATA").write_text("\n".join(lines) + "\n")


def test_a_package_that_is_not_installed_is_named_as_on_the_index() -> None:
    assert needs.missing(("json", "no_such_package")) == ["no_such_package"]


def test_requirements_of_installed_packages_count_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "copied_alone", "first-of-it>=1", "second_of_it")
    install(tmp_path, "second_of_it", "third-of-it; python_version >= '3'")
    monkeypatch.syspath_prepend(tmp_path)
    assert needs.missing(("copied_alone",)) == ["first-of-it", "third-of-it"]


def test_requirements_of_extras_and_of_other_systems_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(
        tmp_path,
        "copied_alone",
        "one; extra == 'all'",
        "two; sys_platform == 'no such system'",
        "three[more]>=2; python_version < '3.0'",
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert needs.missing(("copied_alone",)) == []


def test_a_folder_that_is_no_checkout_of_trellis2_counts_as_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRELLIS2_HOME", str(tmp_path))
    assert needs.missing(("trellis2",)) == ["trellis2"]
    package = tmp_path / "trellis2" / "pipelines"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    assert needs.missing(("trellis2",)) == []


def test_the_report_names_what_each_part_lacks_and_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRELLIS2_HOME", str(tmp_path))
    parts = (
        Part("one", "", "", NOTHING, ("json",)),
        Part("two", "", "", NOTHING, ("no_such_a", "no_such_b", "trellis2")),
    )
    text, has_everything = needs.report(parts)
    assert not has_everything
    assert text.splitlines()[0].split() == ["one", "has", "everything"]
    assert "two           lacks no_such_a, no_such_b, trellis2" in text
    assert "\npython -m pip install no_such_a no_such_b\n" in text
    assert text.endswith(needs.CLONE)


def test_the_part_over_http_has_packages_of_its_own() -> None:
    text, has_everything = needs.report((Part("tests", "", "", NOTHING, ("json",)),))
    assert [line.split("  ")[0] for line in text.splitlines()[:2]] == ["tests", "tests, HTTP"]
    assert has_everything, text
