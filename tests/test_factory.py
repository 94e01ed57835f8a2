"""A factory's module is the one in its own folder, whatever was imported before."""

from __future__ import annotations

import sys

import pytest

from nrc_probe.errors import CodeRefusedError
from nrc_probe.factory import load_factory

NAMES = ("nets_of_two_folders", "beside_nets_of_two_folders")


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / f"{NAMES[0]}.py").write_text(f"from {NAMES[1]} import where\nCALLS = []\n")
        (folder / f"{NAMES[1]}.py").write_text(f"def where():\n    return {name!r}\n")
    yield tmp_path / "a", tmp_path / "b"
    for name in NAMES:
        sys.modules.pop(name, None)


def test_modules_of_one_name_in_two_folders_are_two_modules(folders):
    a, b = folders
    told = [load_factory(f"{NAMES[0]}:where", trusted=True, folder=folder)() for folder in (a, b, a)]
    assert told == ["a", "b", "a"]


def test_a_module_is_imported_once_for_factories_of_one_folder(folders):
    load_factory(f"{NAMES[0]}:where", trusted=True, folder=folders[0])
    first = sys.modules[NAMES[0]]
    load_factory(f"{NAMES[1]}:where", trusted=True, folder=folders[0])
    assert sys.modules[NAMES[0]] is first


def test_what_the_user_imported_stays_imported(folders):
    load_factory("json:loads", trusted=True, folder=folders[0])
    kept = sys.modules["json"]
    load_factory(f"{NAMES[0]}:where", trusted=True, folder=folders[1])
    assert sys.modules["json"] is kept


def test_nothing_is_imported_without_trust(folders):
    with pytest.raises(CodeRefusedError):
        load_factory(f"{NAMES[0]}:where", trusted=False, folder=folders[0])
    assert NAMES[0] not in sys.modules
