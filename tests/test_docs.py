"""The documents are true: commands parse, quick ones run, examples work, links have targets.

All commands on one's own data are run in tests/e2e/test_documents.py.
"""

import ast
import importlib.util
import re
import shlex
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from PIL import Image
from support.models.small_run import small_info

from featherseg import cli
from featherseg.cli import probes
from featherseg.core.config import Config
from featherseg.core.files import write_json
from featherseg.data.datasets.dataset_toml import read_dataset_toml
from featherseg.recipe.tables import Recipe
from featherseg.runs.run import Run, save_weights

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
MEASUREMENTS = sorted(
    (ROOT / "benchmarks/tables").glob("*.md")
)  # their commands are those of their day
QUICK = ("cost", "models", "doctor")


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def commands(program: str) -> list[list[str]]:
    """Every command line of a program in sh blocks and in inline code, without its first word."""
    found: list[list[str]] = []
    for path in DOCUMENTS:
        lines = [
            line for block in blocks(path, "sh") for line in block.replace("\\\n", " ").splitlines()
        ]
        lines += re.findall(r"`(" + program + r" [^`]+)`", path.read_text().replace("\n", " "))
        words = (shlex.split(line, comments=True) for line in lines)
        found += [word[1:] for word in words if word[:1] == [program]]
    return [list(line) for line in dict.fromkeys(map(tuple, found))]


def is_command(line: list[str]) -> bool:
    """Return whether a line is a command: a verb alone is a mention unless it takes no argument."""
    return line in (["models"], ["doctor"], ["demo"]) or (
        len(line) > 1 and not line[0].startswith("-")
    )


FEATHERSEG = [line for line in commands("featherseg") if is_command(line)]


@pytest.fixture
def yard(tmp_path, monkeypatch):
    """The place that the README's examples speak of: a (hardly trained) run and a photo."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (96, 64), (90, 140, 60)).save("photo.jpg")
    toml = tmp_path / "yard" / "dataset.toml"
    toml.parent.mkdir()
    toml.write_text(blocks(ROOT / "README.md", "toml")[0])
    classes = read_dataset_toml(toml).class_infos()
    info = small_info(classes)
    run = tmp_path / "runs" / "yard"
    run.mkdir(parents=True)
    write_json(run / "resolved.json", info.model_dump(mode="json"))
    save_weights(run, Run(run, info).untrained_model().state_dict())
    return tmp_path


def test_the_documents_hold_commands_of_every_verb():
    assert {line[0] for line in FEATHERSEG} == set(cli.VERBS)


@pytest.mark.parametrize("line", FEATHERSEG, ids=" ".join)
def test_every_command_in_the_documents_parses(line):
    group = typer.main.get_command(cli.build_app())
    context = group.make_context("featherseg", list(line))
    verb, command, rest = group.resolve_command(context, line)
    command.make_context(
        verb, rest, parent=context
    )  # raises for an unknown option or a missing argument


def quick_commands():
    """One of each verb for quick tests, all for slow ones."""
    lines = [line for line in FEATHERSEG if line[0] in QUICK]
    first = {line[0]: line for line in reversed(lines)}
    return [
        pytest.param(line, marks=[] if first[line[0]] is line else pytest.mark.slow)
        for line in lines
    ]


@pytest.mark.parametrize("line", quick_commands(), ids=" ".join)
def test_the_quick_commands_run(line, monkeypatch):
    monkeypatch.setattr("sys.argv", ["featherseg", *line])
    monkeypatch.setattr(
        probes, "findings", lambda extras, all_of_them: []
    )  # each tried in a process, by tests/cli/test_doctor.py
    with pytest.raises(SystemExit) as finished:
        cli.main()
    assert not finished.value.code


@pytest.mark.parametrize("line", commands("make"), ids=" ".join)
def test_every_make_target_in_the_documents_exists(line):
    targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert line[0] in targets


@pytest.mark.seconds
def test_the_readme_s_python_lines_work(yard, capsys):
    (block,) = blocks(ROOT / "README.md", "python")
    names: dict[str, object] = {}
    exec(block, names)
    assert capsys.readouterr().out.startswith("(64, 96) ")
    assert list((yard / "out").iterdir())


@pytest.mark.seconds
def test_the_readme_s_command_prints_what_stands_there(tmp_path, monkeypatch, capfd):
    """Shares to a tenth of a point: a processor may round otherwise."""
    monkeypatch.chdir(ROOT)
    (block,) = blocks(ROOT / "README.md", "console")
    command, _, expected = block.partition("\n")
    words = shlex.split(command.removeprefix("$ "))
    monkeypatch.setattr("sys.argv", [*words[:-1], str(tmp_path / words[-1])])
    with pytest.raises(SystemExit):
        cli.main()
    printed, number = capfd.readouterr().out.replace(f"{tmp_path}/", ""), r"\d+\.\d(?=%)"
    assert re.sub(number, "N", printed).split() == re.sub(number, "N", expected).split()
    shares = [[float(share) for share in re.findall(number, text)] for text in (printed, expected)]
    assert shares[0] == pytest.approx(shares[1], abs=0.15)


def test_the_changelog_is_read_in_minutes():
    """A merge of two branches brought back a changelog of 230 lines, twice."""
    released = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split("\n## ")[1:]
    assert all(len(section.split()) < 1000 for section in released)


def script(name: str):
    """The module of scripts/NAME.py, with PAGE and page()."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_verbs_is_what_the_command_line_says():
    (pinned,) = re.findall(r"^typer==(.+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    if version("typer") != pinned:
        pytest.skip(f"the page is written with typer {pinned}; each says types in its own way")
    verbs = script("verbs")
    assert verbs.PAGE.read_text() == verbs.page(), "write it again with: python scripts/verbs.py"


@pytest.mark.parametrize(
    "path", [*DOCUMENTS, *MEASUREMENTS], ids=lambda path: str(path.relative_to(ROOT))
)
def test_links_lead_to_files(path):
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text())
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert missing == []


def test_the_reference_of_the_api_is_what_the_docstrings_say():
    reference = script("api_reference")
    assert reference.PAGE.read_text() == reference.page(), (
        "write it again with: python scripts/api_reference.py"
    )


def test_the_page_of_recipe_keys_is_what_the_tables_say():
    """page() raises KeyError for a key without a sentence on its effect."""
    recipe = script("recipe_reference")
    assert recipe.PAGE.read_text(encoding="utf-8") == recipe.page(), (
        "write it again with: python scripts/recipe_reference.py"
    )


def test_a_recipe_key_without_an_effect_is_noticed():
    class Table(Config):
        named: int = 0
        """What it does."""
        silent: int = 0

    effect = script("recipe_reference").effect
    assert effect(Table, "named") == "What it does."
    with pytest.raises(KeyError):
        effect(Table, "silent")


def messages_of_the_code() -> set[str]:
    """Every text in the source; what a message is filled with is "\0"."""
    found = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [getattr(part, "value", "") for part in node.values]
                found.add("".join(part if isinstance(part, str) else "\0" for part in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def test_the_messages_of_troubleshooting_stand_in_the_code():
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    messages, code = re.findall(r"^`([^`]+)`$", page, re.MULTILINE), messages_of_the_code()
    assert len(messages) >= 20
    assert len(messages) == page.count("\n### ")
    patterns = {text: re.escape(text).replace(r"\.\.\.", ".*\0.*") for text in messages}
    assert [
        text
        for text, pattern in patterns.items()
        if not any(re.search(pattern, template) for template in code)
    ] == []


@pytest.mark.parametrize("name", ["troubleshooting", "coming-from", "faq"])
def test_the_keys_that_help_pages_name_are_keys_of_a_recipe(name):
    code = " ".join(re.findall(r"`([^`\n]+)`", (ROOT / f"docs/{name}.md").read_text("utf-8")))
    tables = {key: field.annotation for key, field in Recipe.model_fields.items()}
    named = re.findall(rf"(?<![\w./])({'|'.join(tables)})\.(\w+)(?!\.)", code)
    assert named
    assert [
        f"{table}.{key}"
        for table, key in named
        if key not in {*tables[table].model_fields, "json", "yaml", "py", "txt", "onnx"}
    ] == []
