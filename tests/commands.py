"""Commands run in this process, as a user would type them."""

from click.testing import CliRunner, Result

from foresay.cli.main import main


def invoke(*arguments: object, code: int = 0) -> Result:
    """Runs a command in this process."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def run(*arguments: object, code: int = 0) -> str:
    """What a command printed, or where it failed its messages."""
    result = invoke(*arguments, code=code)
    return result.output if code else result.stdout
