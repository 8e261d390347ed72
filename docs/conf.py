"""The settings of the site: python -m sphinx -W docs build/site (Sphinx, MyST)."""

project = 'jaxprompt'
copyright = f'the authors of {project}, Apache-2.0'
html_title = project
html_theme = 'furo'
html_show_sourcelink = False

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
myst_heading_anchors = 3  # links to headings, as on a repository's page
default_role = 'code'  # of `names` in docstrings
autodoc_member_order = 'bysource'
autodoc_typehints_format = 'short'
napoleon_use_ivar = True
napoleon_use_rtype = False
