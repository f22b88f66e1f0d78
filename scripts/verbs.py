"""Write docs/verbs.md from the command line: python scripts/verbs.py (a test compares the two)."""

import inspect
from pathlib import Path
from typing import Any

import typer

from featherseg.cli import VERBS, build_app

EVERYWHERE = ("--help", "--quiet", "--verbose")
PAGE = Path(__file__).parents[1] / "docs" / "verbs.md"
HEAD = """# Every verb

Generated from the command line by `python scripts/verbs.py`; `--help` after a verb prints the same.
Exit codes: 0 success; 1 faults found (`check`, `doctor`), files skipped (`predict`), a limit not
kept (`fit`, `fit --confirm`), a closed pipe or a bug; 2 an error that the message explains, also if
`export` could not write a format; 130 stopped by Ctrl-C. `demo` has the exit code of its last step.
Every verb has `-q` (print results and warnings only) and `-v` (print times and tracebacks too).

`featherseg --show-completion bash` (or `zsh`, `fish`) prints the script by which the Tab key
completes commands. For every new shell, once:

```
featherseg --show-completion bash > ~/.local/share/bash-completion/completions/featherseg
featherseg --show-completion fish > ~/.config/fish/completions/featherseg.fish
featherseg --show-completion zsh > ~/.zfunc/_featherseg    # ~/.zshrc: fpath+=~/.zfunc
                                                           #   autoload -Uz compinit && compinit
```
"""


def page() -> str:
    """Return the page as Markdown."""
    group = typer.main.get_command(build_app())
    context = typer.Context(group, info_name="featherseg")
    parts = [HEAD]
    for verb, (line, _) in VERBS.items():
        command = group.get_command(context, verb)
        own_context = typer.Context(command, info_name=f"featherseg {verb}")
        parts.append(f"## {verb}\n\n{line}\n\n{inspect.cleandoc(command.help or '')}\n")
        parts.append(f"`{command.epilog.removeprefix('Example: ')}`\n")
        rows = "\n".join(map(_row, _parameters(command, own_context)))
        parts.append(f"| | |\n|---|---|\n{rows}\n")
    return "\n".join(parts)


def _parameters(command: Any, context: Any) -> list[tuple[str, str]]:
    """Return the parameters of a verb and their help: (`-o, --out PATH`, sentence)."""
    records = []
    for parameter in command.params:
        record = parameter.get_help_record(context)
        name = record[0] if record else parameter.human_readable_name
        records.append((name, record[1] if record else parameter.help or ""))
    return [row for row in records if not row[0].endswith(EVERYWHERE)]


def _row(parameter: tuple[str, str]) -> str:
    name, text = (" ".join(part.split()).replace("|", "\\|") for part in parameter)
    return f"| `{name}` | {text} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
