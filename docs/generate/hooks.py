"""What MkDocs calls: fills the generated parts of pages in, and takes the files beside ``docs`` that pages link to along.

A page has ``<!-- generated: NAME -->`` where the text of :data:`GENERATED` belongs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from api_reference import list_public_names
from artifact_reference import describe_card, describe_preprocess, describe_variant
from command_reference import describe_commands
from route_reference import describe_routes
from setting_reference import describe_settings

ROOT = Path(__file__).resolve().parents[2]

GENERATED: dict[str, Callable[[], str]] = {
    "api": list_public_names,
    "card": describe_card,
    "commands": describe_commands,
    "preprocess": describe_preprocess,
    "routes": describe_routes,
    "settings": describe_settings,
    "variant": describe_variant,
}

_MARKER = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
_OUTSIDE = re.compile(r"(?<=\]\()\.\./([^)#\s]+)")
"""A link from a page to a file beside ``docs``, as it works on GitHub."""

_DRAWING = re.compile(r"^!\[.*\]\(([\w-]+\.svg)\)$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files beside ``docs`` that pages link to."""
    for page in list(files.documentation_pages()):
        for path in _OUTSIDE.findall(page.content_string):
            if (ROOT / path).is_file() and files.get_file_from_path(path) is None:
                files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fills the generated parts in; links to files beside ``docs`` become links to their copies."""
    if page.file.src_dir == str(ROOT):
        return markdown
    markdown = _MARKER.sub(lambda match: GENERATED[match[1]](), markdown)
    markdown = _DRAWING.sub(lambda match: _inline(Path(config.docs_dir) / match[1]), markdown)
    return _OUTSIDE.sub(lambda match: match[1] if files.get_file_from_path(match[1]) else match[0], markdown)


def _inline(path: Path) -> str:
    """A drawing as part of the page, so that its lines have the colour of the page's text."""
    return f'<figure class="drawing" markdown="0">\n{path.read_text(encoding="utf-8")}</figure>'
