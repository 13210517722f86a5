"""The command line of the export room: options, commands, help."""
