"""Programs and groups of commands, and the help that they show in the user's language."""

import inspect
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from kvm_backup.cli.language import _, language
from kvm_backup.language import translations


def usage_prefix() -> str:
    """What a help begins with."""
    return _("Usage:")


class Program(typer.Typer):
    """Typer with our help: no types of Python, no sentence cut off, translated."""

    def __init__(self, help: str, **settings: Any) -> None:  # noqa: A002 - Typer's name
        super().__init__(
            cls=_Group,
            help=help,
            no_args_is_help=True,
            add_completion=False,
            pretty_exceptions_enable=False,
            rich_markup_mode=None,
            context_settings={"help_option_names": ["-h", "--help"]},
            **settings,
        )

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        """A command of this program, as Typer's decorator makes it."""
        return super().command(name, cls=_Command, **settings)


class _Command(TyperCommand):
    def format_help(self, ctx: Any, formatter: Any) -> None:
        _write_help(self, ctx, formatter)


class _Group(TyperGroup):
    def format_help(self, ctx: Any, formatter: Any) -> None:
        _write_help(self, ctx, formatter)


def _write_help(command: TyperCommand | TyperGroup, context: Any, formatter: Any) -> None:
    parameters = command.get_params(context)
    arguments = [each for each in parameters if isinstance(each, TyperArgument)]
    options = [each for each in parameters if isinstance(each, TyperOption)]
    words = [_("[OPTIONS]"), *map(_usage_of, arguments)]
    if isinstance(command, TyperGroup):
        words.append(_("COMMAND [ARGUMENTS]..."))
    formatter.write_usage(context.command_path, " ".join(words), prefix=f"{usage_prefix()} ")
    formatter.write_paragraph()
    with formatter.indentation():
        formatter.write_text(told_paragraphs(command.help))
    _write_rows(formatter, _("Arguments:"), [(each.display_name_raw, _help_of(each)) for each in arguments])
    _write_rows(formatter, _("Options:"), [(_options(each, context), _help_of(each)) for each in options])
    if isinstance(command, TyperGroup):
        rows = [(name, _told(paragraphs(inner.help)[0])) for name, inner in command.commands.items()]
        _write_rows(formatter, _("Commands:"), rows)
    if command.epilog:
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(told_paragraphs(command.epilog))


def _write_rows(formatter: Any, title: str, rows: list[tuple[str, str]]) -> None:
    if rows:
        formatter.write_paragraph()
        formatter.write(f"{title}\n")
        with formatter.indentation():
            formatter.write_dl(rows)


def _usage_of(argument: TyperArgument) -> str:
    name = argument.display_name_raw + ("..." if argument.nargs != 1 else "")
    return name if argument.required else f"[{name}]"


def _options(option: TyperOption, context: Any) -> str:
    names = ", ".join(sorted(option.opts, key=len))
    return names if option.is_flag else f"{names} {option.metavar or option.display_type(context)}"


def _help_of(parameter: TyperArgument | TyperOption) -> str:
    """The parameter's help, and whether it must be given or what it is otherwise."""
    told = told_paragraphs(parameter.help)
    if parameter.required and isinstance(parameter, TyperOption):
        return f"{told}  [{_('required')}]"
    if parameter.show_default and parameter.default is not None and not isinstance(parameter.default, bool):
        return f"{told}  [{_('default: {value}').format(value=parameter.default)}]"
    return told


def told_paragraphs(text: str | None) -> str:
    """A help in the user's language; each of its paragraphs is one message of the catalogue."""
    return "\n\n".join(map(_told, paragraphs(text)))


def paragraphs(text: str | None) -> list[str]:
    """The paragraphs of a docstring, each in one line."""
    return [part.replace("\n", " ") for part in inspect.cleandoc(text or "").split("\n\n") if part]


def _told(paragraph: str) -> str:
    return translations(language()).gettext(paragraph)
