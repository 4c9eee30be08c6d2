"""Looking things up: web pages, papers, the Hub and GitHub, and saying so where there was no answer."""
