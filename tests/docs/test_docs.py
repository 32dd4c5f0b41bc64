from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```python *(?P<flags>[^\n]*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
OUTPUT = re.compile(r"^```text output\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|#)(?P<target>[^)#]+)")


def name(page: Path) -> str:
    """A page's path in the repository, for the test's id."""
    return page.relative_to(ROOT).as_posix()


def runnable(page: Path) -> str:
    """The page's Python blocks as one program, each line where it stands in the page."""
    text = page.read_text("utf-8")
    lines = [""] * text.count("\n")
    for block in FENCE.finditer(text):
        if block["flags"].strip() != "no-run":
            first = text.count("\n", 0, block.start("code"))
            code = block["code"].splitlines()
            lines[first : first + len(code)] = code
    return "\n".join(lines)


@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page).strip()], ids=name)
def test_python_on_the_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a reader copies from the page, top to bottom, runs and prints what the page says it prints."""
    monkeypatch.chdir(tmp_path)
    exec(compile(runnable(page), str(page), "exec"), {"__name__": "__main__"})
    shown = [block["text"] for block in OUTPUT.finditer(page.read_text("utf-8"))]

    assert not shown or capsys.readouterr().out == "".join(shown)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_on_the_page_lead_somewhere(page: Path) -> None:
    """Every relative link names a file of the repository."""
    targets = [match["target"] for match in LINK.finditer(page.read_text("utf-8"))]

    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_page_is_reachable_from_the_index() -> None:
    """A page that nothing links to is a page that nobody reads."""
    reached, todo = set[Path](), [ROOT / "docs" / "index.md"]
    while todo:
        page = todo.pop().resolve()
        if page not in reached and page.suffix == ".md":
            reached.add(page)
            todo += [page.parent / match["target"] for match in LINK.finditer(page.read_text("utf-8"))]

    assert [name(page) for page in PAGES[1:] if page not in reached] == []
