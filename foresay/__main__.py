"""`python -m foresay`, which launchers of several processes need: `accelerate launch -m foresay train …`."""

from .cli.main import main

main()
