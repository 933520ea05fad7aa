"""The whole service as a user meets it: the installed command, its files, its database, its answers."""
