"""HTML by functions: every text is escaped unless it is HTML already."""

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Sequence

_VOID = frozenset({"br", "img", "input", "link", "meta"})
# What XML forbids, and no text of a page needs.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


class Html(str):
    """Text that is HTML, and is not escaped again."""

    __slots__ = ()


Child = str | int | float | None


def text(value: object) -> Html:
    """Escape a text, for between tags and for attributes; control characters become U+FFFD.

    Args:
      value: anything, by its `str`.
    """
    return Html(html.escape(_CONTROL.sub("\ufffd", str(value))))


def element(tag: str, *children: Child, **attributes: object) -> Html:
    """Make an element.

    Args:
      tag: such as "p".
      *children: HTML, or texts, which are escaped; None is left out.
      **attributes: name -> value, `class_` for `class` and `data_x` for `data-x`; True has no
        value, None and False are left out.
    """
    written = "".join(
        f" {_name(name)}" if value is True else f' {_name(name)}="{text(value)}"'
        for name, value in attributes.items()
        if value is not None and value is not False
    )
    if tag in _VOID:
        return Html(f"<{tag}{written}>")
    return Html(f"<{tag}{written}>{joined(children)}</{tag}>")


def joined(children: Iterable[Child]) -> Html:
    """Put HTML and texts one after another, the texts escaped and None left out."""
    return Html(
        "".join(
            child if isinstance(child, Html) else text(child)
            for child in children
            if child is not None
        )
    )


def table(head: Sequence[Child], rows: Iterable[Sequence[Child]], *, caption: str) -> Html:
    """Make a table that scrolls by itself where it is too wide.

    Args:
      head: of the columns; the first cell of a row is its head.
      rows: of as many cells each.
      caption: what the table holds.
    """
    cells = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(element("td", cell) for cell in row[1:]),
        )
        for row in rows
    ]
    columns = element("tr", *(element("th", cell, scope="col") for cell in head))
    body = element(
        "table",
        element("caption", caption),
        element("thead", columns),
        element("tbody", *cells),
    )
    return element("div", body, class_="scroll", tabindex=0, role="region", aria_label=caption)


def document(*, title: str, body: Html, style: str, script: str, refresh: int = 0) -> str:
    """Make a page which may load nothing, and run no script but its own.

    Args:
      title: of the page.
      body: what stands in it.
      style: CSS.
      script: JavaScript, run after the body is there.
      refresh: seconds after which the page loads itself again; 0 never.
    """
    policy = (
        "default-src 'none'; img-src data:; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", http_equiv="refresh", content=str(refresh)) if refresh else None,
        element("link", rel="icon", href="data:,"),
        element("title", title),
        element("style", Html(style)),
    )
    whole = element("body", body, element("script", Html(script)))
    return f"<!doctype html>\n{element('html', head, whole, lang='en')}\n"


def _name(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def _digest(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
