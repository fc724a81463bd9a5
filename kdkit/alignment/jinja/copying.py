"""Whether a chat template does nothing with contents but copy them, read off its syntax tree.

What such a template writes is what it writes for any other contents, with these in their places; so one rendering for
an order of roles holds for every conversation of that order. The proof is a list of what is allowed: a template that
does anything else with a content, or something that is not known here, is not said to copy.
"""

from collections.abc import Sequence
from functools import lru_cache

import jinja2
from jinja2 import nodes

_CLEAN, _LIST, _MESSAGE, _CONTENT = "clean", "list", "message", "content"
"""What a value may hold: nothing of a content; the messages; a message; text with contents copied into it."""

_ABOUT_LOOP = {"first", "last", "index", "index0", "revindex", "revindex0", "length"}
_OF_TYPE = {"defined", "undefined", "none", "string", "mapping", "iterable", "sequence"}
"""Tests that say the same of every text."""


class _RefusedError(Exception):
    """Something that may depend on contents."""


def is_plain(content: str) -> bool:
    """Return whether a content is one that `copies_plain` speaks of: not empty, and no spaces around it."""
    return content != "" and content == content.strip()


@lru_cache(maxsize=16)
def copies_plain(template: str) -> bool:
    """Return whether a template copies contents that are `is_plain`, whatever they say.

    Args:
        template: Jinja; it gets `messages` with `role` and `content`, and nothing else that holds a content.

    Returns:
        True only if that is proven. It may also strip contents and ask whether there is one.
    """
    try:
        tree = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]).parse(
            template
        )
        _Proof().read(tree.body)
    except (jinja2.TemplateSyntaxError, _RefusedError):
        return False
    return True


class _Proof:
    """Follows contents through a template. A name is of one kind everywhere, whatever its scope."""

    def __init__(self) -> None:
        self.kinds = {"messages": _LIST}

    def read(self, body: list[nodes.Node]) -> None:
        """Read statements; refuse what is not known."""
        for node in body:
            if isinstance(node, nodes.Output):
                for each in node.nodes:
                    self._text(each)
            elif isinstance(node, nodes.If):
                self._test(node.test)
                self.read([*node.body, *node.elif_, *node.else_])
            elif isinstance(node, nodes.For) and not node.recursive:
                found = self._kind(node.iter)
                _allow(found in (_CLEAN, _LIST))
                self._bind(node.target, _MESSAGE if found == _LIST else _CLEAN)
                if node.test is not None:
                    self._test(node.test)
                self.read([*node.body, *node.else_])
            elif isinstance(node, nodes.Assign):
                self._bind(node.target, self._kind(node.node))
            else:
                _allow(isinstance(node, nodes.Break | nodes.Continue))

    def _bind(self, target: nodes.Node, kind: str) -> None:
        """Note what a name holds; names that are bound together and attributes hold no content."""
        if isinstance(target, nodes.Name):
            _allow(target.name != "loop" and self.kinds.setdefault(target.name, kind) == kind)
            return
        _allow(kind == _CLEAN)
        for name in target.find_all(nodes.Name):
            self._bind(name, kind)

    def _text(self, node: nodes.Node) -> str:
        """Refuse anything that is neither text nor clean."""
        kind = self._kind(node)
        _allow(kind in (_CLEAN, _CONTENT))
        return kind

    def _texts(self, parts: Sequence[nodes.Node]) -> str:
        """Return what texts hold together."""
        return _CONTENT if _CONTENT in [self._text(each) for each in parts] else _CLEAN

    def _test(self, node: nodes.Node) -> None:
        """Read a condition; that a plain content is there is true of all."""
        self._text(node.node if isinstance(node, nodes.Not) else node)

    def _kind(self, node: nodes.Node) -> str:
        """Return what a value may hold."""
        if isinstance(node, nodes.Name):
            _allow(node.name != "loop")
            return self.kinds.setdefault(node.name, _CLEAN)
        if isinstance(node, nodes.Getattr | nodes.Getitem):
            return self._part(node)
        if isinstance(node, nodes.Add | nodes.Concat):
            return self._texts([node.left, node.right] if isinstance(node, nodes.Add) else node.nodes)
        if isinstance(node, nodes.CondExpr):
            self._test(node.test)
            return self._texts([node.expr1] if node.expr2 is None else [node.expr1, node.expr2])
        if (stripped := _stripped(node)) is not None:
            return self._text(stripped)
        if isinstance(node, nodes.Test) and node.name in _OF_TYPE:
            self._kind(node.node)
            return _CLEAN
        counts = isinstance(node, nodes.Filter) and node.name in ("length", "count")
        for child in node.iter_child_nodes():
            kind = self._kind(child)
            _allow(kind == _CLEAN or (counts and kind == _LIST))
        return _CLEAN

    def _part(self, node: nodes.Getattr | nodes.Getitem) -> str:
        """Return what a part of a value may hold."""
        of = node.node
        name = node.attr if isinstance(node, nodes.Getattr) else getattr(node.arg, "value", None)
        if isinstance(of, nodes.Name) and of.name == "loop":  # which also knows its neighbours
            _allow(name in _ABOUT_LOOP)
            return _CLEAN
        if isinstance(node, nodes.Getitem):
            _allow(self._kind(node.arg) == _CLEAN)
        kind = self._kind(of)
        if kind == _LIST:
            is_slice = isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
            _allow(isinstance(node, nodes.Getitem))
            return _LIST if is_slice else _MESSAGE
        if kind == _MESSAGE:
            # nothing else is there, but methods of a dictionary give its values
            _allow(isinstance(name, str) and name not in dir(dict))
            return _CONTENT if name == "content" else _CLEAN
        _allow(kind == _CLEAN)
        return kind


def _stripped(node: nodes.Node) -> nodes.Expr | None:
    """Return what a filter or a method without arguments strips of the spaces around it; None where there is none."""
    if not isinstance(node, nodes.Filter | nodes.Call) or node.args or node.kwargs or node.dyn_args or node.dyn_kwargs:
        return None
    if isinstance(node, nodes.Filter):
        return node.node if node.name == "trim" else None
    method = node.node
    return method.node if isinstance(method, nodes.Getattr) and method.attr == "strip" else None


def _allow(is_known: bool) -> None:
    if not is_known:
        raise _RefusedError
