"""Things to try: inputs for the commands, with the scripts that write them."""
