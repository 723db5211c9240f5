"""A model behind HTTP: OpenAI's completions, and a page on which bytes arrive. Needs the extra `serve`."""
