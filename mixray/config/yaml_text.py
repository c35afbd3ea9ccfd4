"""Reading and writing the YAML of run files: ``3e-3`` is a number, keys are unique, and every key has a line number."""

# ruamel.yaml 0.19 was tried in place of this module. It gives line numbers only together with its round-trip types,
# warns of 3e-3, accepts an alias that contains itself, and does not read back what it writes of U+0085 and U+2028. In
# YAML 1.2, "yes" and "on" would become text in existing run files.

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import yaml

from mixray.errors import first_line

MERGE = "tag:yaml.org,2002:merge"
KeyPath = tuple[str, ...]
Lines = Mapping[KeyPath, int]
"""The line (from 1) of every key path of a document."""


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, except that ``3e-3`` is a number and a duplicate key is an error."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        keys: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    raise yaml.composer.ComposerError(None, None, f"the key {key.value!r} stands twice", key.start_mark)
                keys.add(key.value)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Insert the pairs of the mappings that ``<<`` names. A node's own key wins, then the first mapping's.

        PyYAML 6.0.4 compares merged keys by the identity of their strings, so which of them wins depends on interning.
        """
        merged: dict[Hashable, tuple[yaml.Node, yaml.Node]] = {}
        explicit: dict[Hashable, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            if key.tag == MERGE:
                for mapping in reversed(value.value if isinstance(value, yaml.SequenceNode) else [value]):
                    if not isinstance(mapping, yaml.MappingNode):
                        raise yaml.constructor.ConstructorError(
                            None, None, "'<<' needs a mapping or a list of mappings", mapping.start_mark
                        )
                    self.flatten_mapping(mapping)
                    merged.update({_identity(pair[0]): pair for pair in mapping.value})
            else:
                explicit[_identity(key)] = (key, value)
        node.value = list((merged | explicit).values())


class _Dumper(yaml.SafeDumper):
    """Writes documents that ``_Loader`` reads back equal: the text ``"3e-3"`` is written in quotes."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    """Write text with a line break that only Unicode has, or a byte order mark, in double quotes, which escape it."""
    style = '"' if re.search("[\x85\u2028\u2029\ufeff]", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text)
for _class in (_Loader, _Dumper):  # YAML 1.1 reads 3e-3, without a point, as text
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )


def load(text: str) -> tuple[Any, Lines]:
    """Return the document as plain Python values, and the line of every key path. Raises yaml.YAMLError."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, {}
        lines = dict(_lines(node, (), ()))  # before construction, which writes merged keys into the nodes
        return loader.construct_document(node), lines
    finally:
        loader.dispose()


def dump(value: Any, *, flow: bool = False) -> str:
    """Return a document that ``load`` reads back equal, with keys in their order; ``flow`` writes it on one line."""
    width = 10_000 if flow else None  # None: PyYAML's 80 characters
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=flow, width=width)


def fault(error: yaml.YAMLError) -> str:
    """Return what is wrong with a document, in one line."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return first_line(error)
    return ": ".join(part for part in (error.context, error.problem) if part)


def _identity(key: yaml.Node) -> Hashable:
    """Return a value that is equal for keys that are the same: tag and text. Keys that are not scalars all differ."""
    return (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)


def _lines(node: yaml.Node, path: KeyPath, above: tuple[yaml.Node, ...]) -> Iterator[tuple[KeyPath, int]]:
    """Yield the path and line of every key and list item below ``node``. ``above``: the nodes that contain it."""
    if any(node is other for other in above):
        raise yaml.constructor.ConstructorError(None, None, "an alias contains itself", node.start_mark)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*path, str(key.value)), key.start_mark.line + 1
            yield from _lines(value, (*path, str(key.value)), (*above, node))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*path, str(index)), value.start_mark.line + 1
            yield from _lines(value, (*path, str(index)), (*above, node))
