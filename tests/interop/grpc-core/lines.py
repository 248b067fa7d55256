"""The conversation with the test: a ready line, then one line of JSON out for each line in, until the input ends."""

import json
import sys


def say(value):
    print(json.dumps(value), flush=True)


def serve(ready, commands):
    """Prints `ready`, then obeys `{"name": {arguments}}` lines by calling `commands[name](**arguments)`."""
    say({"ready": ready})
    for line in sys.stdin:
        try:
            ((name, arguments),) = json.loads(line).items()
            say({"ok": commands[name](**arguments)})
        except Exception as error:  # whatever it is, the test wants to read it and the program to go on
            say({"error": f"{type(error).__name__}: {error}"})
