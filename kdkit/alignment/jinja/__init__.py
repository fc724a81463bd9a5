"""What the programs that chat templates are do with the contents of messages."""
