"""The live view of an engine: what is drawn, the page that draws it, and the view that keeps it current."""
