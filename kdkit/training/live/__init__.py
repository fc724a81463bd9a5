"""The dashboard of a training in an open notebook: what it shows, how it is drawn, how its button is heard."""
