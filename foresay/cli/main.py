"""The command line: one command a step, in the order of the data.

Commands live in the files beside this one, by group; each parses, calls the public function of the same name and
prints. Nothing here or there imports torch outside a command's body: `foresay --help` answers at once. An error of
our own tree becomes one line and exit code 1 (options.py).
"""

import logging
import sys

import click

from .. import __version__
from . import (
    checkpoints,
    embedding,
    evaluation,
    explaining,
    looking,
    quickstart,
    reading,
    responses,
    search,
    serve,
    teachers,
    training,
    whitening,
)
from .options import Group, verbose


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="foresay")
def main() -> None:
    """Embeddings of what a language model would answer.

    Train your own in four commands (or see them all at work: foresay quickstart):

    \b
      foresay respond queries.jsonl -m MODEL -o responses.jsonl
      foresay teach   responses.jsonl -t TEACHER -o targets/
      foresay train   responses.jsonl targets/ -m MODEL -o checkpoint/
      foresay encode  checkpoint/ texts.jsonl -o vectors.npy
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)


for command in (
    quickstart.quickstart,
    responses.respond,
    looking.look,
    looking.merge,
    teachers.teacher,
    whitening.whiten,
    whitening.whiten_index,
    teachers.teach,
    training.fit,
    training.train,
    embedding.encode,
    reading.decode,
    reading.lens,
    reading.latent_index,
    explaining.explain,
    explaining.faithfulness,
    explaining.report,
    search.index,
    search.adopt,
    search.migrate,
    search.rehead,
    search.search,
    evaluation.evaluate,
    serve.serve,
    checkpoints.verify,
    checkpoints.bundle,
    checkpoints.reweight,
    checkpoints.convert,
):
    main.add_command(command)
main.params.append(verbose())
