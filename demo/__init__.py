"""The lessons' checkout, and what executes, renders and serves the lessons. Not part of the package."""
