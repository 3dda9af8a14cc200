# SPDX-License-Identifier: Apache-2.0

"""The metadata for a package index: its links work outside of the repository."""

import os
import re
import subprocess
import sys
from email import message_from_string

import pages

REPOSITORY = "https://forge.example/owner/name"


def metadata(folder, repository):
    """Returns the metadata of a build that knows the address of the repository, or does not."""
    environment = {name: value for name, value in os.environ.items() if name != "REPOSITORY"}
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(folder)],
        cwd=pages.ROOT,
        env={**environment, **({"REPOSITORY": repository} if repository else {})},
        capture_output=True,
        check=True,
    )
    (path,) = folder.glob("*.egg-info/PKG-INFO")
    return message_from_string(path.read_text(encoding="utf-8"))


def test_links_are_absolute_where_the_repository_is_known(tmp_path):
    found = metadata(tmp_path, REPOSITORY)
    readme = (pages.ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"(!?)\[[^][]*\]\(([^)]+)\)", found.get_payload())
    assert len(links) == readme.count("](")
    own = {target.removeprefix(REPOSITORY): kind for kind, target in links if target.startswith(REPOSITORY)}
    assert len(own) > 10
    assert all(target.startswith("https://") for _, target in links)
    labels = dict(entry.split(", ") for entry in found.get_all("Project-URL"))
    assert labels["Repository"] == REPOSITORY
    paths = [*own, labels["Documentation"].removeprefix(REPOSITORY), labels["Changelog"].removeprefix(REPOSITORY)]
    for path in paths:
        kind, file = re.fullmatch(r"/(blob|raw)/v[^/]+/(.+)", path).groups()
        assert (pages.ROOT / file).exists(), path
        assert kind == ("raw" if own.get(path) == "!" else "blob")


def test_nothing_is_made_up_where_it_is_not(tmp_path):
    found = metadata(tmp_path, None)
    assert found.get_all("Project-URL") is None
    assert found["Author"]
    assert found.get_payload().strip() == (pages.ROOT / "README.md").read_text(encoding="utf-8").strip()
