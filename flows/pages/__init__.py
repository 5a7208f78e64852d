"""Pages: what a person looks at in a browser, served by this machine to this machine alone.

A page is static files of `assets/` and JSON from the server that the page itself builds its
elements from: no text of a row is ever read as HTML. `guard` lets in who knows the token, and
forbids what the page does not need; `serving` listens; `nodes` turns Markdown into elements;
`visible` shows what cannot be seen.
"""
