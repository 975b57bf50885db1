"""Data sets: shipped and the user's own, their documents, and the token windows made of them."""
