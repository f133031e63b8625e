"""Settings as actors of another version are given them."""

from __future__ import annotations

import pickle
from pathlib import Path

from cluster.config import kept_settings, load_settings, settings_of


def test_what_was_set_comes_back_and_nothing_else() -> None:
    settings = load_settings({}, home=Path("home"), embedder="edgeface_xs", models=(Path("models"),), threads=2)
    again = settings_of(pickle.loads(pickle.dumps(kept_settings(settings))))
    assert again == settings
    assert again.model_fields_set == settings.model_fields_set  # an embedder that was not named may be a gallery's


def test_keys_and_the_catalogs_password_stay_with_the_process_that_opens_the_home() -> None:
    settings = load_settings(
        {}, encryption_key="0" * 64, catalog="postgresql://user:word@db/x", key="fg_x", url="http://x"
    )
    assert kept_settings(settings) == {}


def test_a_setting_of_another_version_is_dropped() -> None:
    assert settings_of({"threads": 3, "of_a_later_version": 1}).threads == 3
