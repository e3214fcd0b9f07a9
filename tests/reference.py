"""Write the rendered project's docs/reference.md from the docstrings: `python tests/reference.py`.

It reads the source and imports nothing, so any Python that the template supports can run it.
"""

import ast
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent / "{{cookiecutter.project_slug}}"
PAGE = PROJECT / "docs" / "reference.md"

# The public modules, in the order of the page. Their public names are those in `__all__`.
MODULES = ("urls", "middleware", "connection", "views", "groups", "auth", "testing")

# Exported for other modules of websocket/, not for code of one's own.
INTERNAL = {"Hub", "Member", "Message", "close_hub", "get_hub", "new_id", "publish_message"}

HEAD = """\
# Reference

The public names of `websocket/`, with their signatures, what they raise, and the settings that \
bound them. This page is made from the docstrings.
"""

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.Assign | ast.AnnAssign

# The methods behind `async for`; the other special methods are as in all Python classes.
ITERATION = ("__aiter__", "__anext__")

# How a docstring says that it raises what another function does; after an exception's name, it
# speaks of that exception alone.
AS_OTHER = re.compile(r"(`[A-Z]\w+`\s+)?(?:\bas|those\s+of)\s+`(\w+)`")
EXCEPTION = re.compile(r"`([A-Z][a-z]\w+)`")


class Module:
    """A module of websocket/: its source, and where its names come from."""

    def __init__(self, name: str) -> None:
        path = PROJECT.joinpath(*name.split("."))
        self.path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        source = self.path.read_text(encoding="utf-8")
        self.lines = source.splitlines()
        tree = ast.parse(source)
        self.docstring = ast.get_docstring(tree) or ""
        self.definitions: dict[str, Definition] = {}
        self.imports: dict[str, str] = {}
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("websocket"):
                self.imports |= {alias.name: node.module for alias in node.names}
            elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                self.definitions[node.name] = node
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                self.definitions[ast.unparse(target_of(node))] = node

    @property
    def public(self) -> list[str]:
        """The names in `__all__`, first those that are defined here, in their order."""
        names = set(ast.literal_eval(self.definitions["__all__"].value)) - INTERNAL
        return [*filter(names.__contains__, self.definitions), *sorted(names - {*self.definitions})]

    def find(self, name: str) -> "tuple[Module, Definition] | None":
        """Return a name's definition, and the module that it is in; None if it is none of ours."""
        if name in self.definitions:
            return self, self.definitions[name]
        return Module(self.imports[name]).find(name) if name in self.imports else None

    def comment(self, node: ast.stmt) -> str:
        """Return the `#:` comment above a statement."""
        lines = []
        number = node.lineno - 2
        while number >= 0 and self.lines[number].strip().startswith("#:"):
            lines.insert(0, self.lines[number].strip().removeprefix("#:").strip())
            number -= 1
        return " ".join(lines)


def target_of(node: ast.Assign | ast.AnnAssign) -> ast.expr:
    return node.target if isinstance(node, ast.AnnAssign) else node.targets[0]


@dataclass
class Entry:
    """A name on the page."""

    name: str
    #: In full; of an attribute, with its type or value.
    signature: str
    text: str = ""
    #: The attributes and methods of a class.
    members: "list[Entry]" = field(default_factory=list)
    #: The exceptions that the body raises, which the docstring has to name.
    raised: set[str] = field(default_factory=set)
    is_callable: bool = True


# --- from the source to entries ----------------------------------------------------------------


def entry_of(module: Module, name: str) -> Entry:
    found = module.find(name)
    assert found, f"{module.path}: {name} is in __all__, but not defined in websocket/."
    home, node = found
    if isinstance(node, ast.ClassDef):
        return class_entry(home, node)
    if isinstance(node, ast.Assign | ast.AnnAssign):
        value = f" = {value_of(node.value)}" if isinstance(node.value, ast.Constant) else ""
        return Entry(name, f"{name}{value}", home.comment(node), is_callable=False)
    return function_entry(node)


def function_entry(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Entry:
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    returns = ast.unparse(node.returns) if node.returns else "Any"
    returns = returns.replace("_AnyUser", "AbstractBaseUser | AnonymousUser")  # django-stubs' name
    prefix = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    if coroutine := re.fullmatch(r"Coroutine\[Any, Any, (.+)\]", returns):
        prefix, returns = "async ", coroutine[1]
    if "asynccontextmanager" in decorators:
        prefix, returns = "async with ", item_of(returns)
    signature = f"{prefix}{node.name}({arguments(node.args)}) -> {returns}"
    if "property" in decorators:
        signature = f"{node.name}: {returns}"
    if node.name in ITERATION:
        signature = f"async for message in ...: {item_of(returns)}"
    return Entry(
        "async for" if node.name in ITERATION else node.name,
        signature,
        ast.get_docstring(node) or "",
        raised=set(exceptions_raised(node)),
        is_callable="property" not in decorators,
    )


def arguments(args: ast.arguments) -> str:
    """Return the arguments of a function, without `self`, as a formatter writes them."""
    ordered = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(ordered) - len(args.defaults)) + args.defaults
    parts = [argument(*pair) for pair in zip(ordered, defaults, strict=True)]
    if args.vararg:
        parts.append(f"*{argument(args.vararg)}")
    elif args.kwonlyargs:
        parts.append("*")
    parts += [argument(*pair) for pair in zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    if args.kwarg:
        parts.append(f"**{argument(args.kwarg)}")
    return ", ".join(part for part in parts if part not in ("self", "cls"))


def argument(arg: ast.arg, default: ast.expr | None = None) -> str:
    text = ast.unparse(arg)
    return f"{text} = {value_of(default)}" if default else text


def value_of(node: ast.expr) -> str:
    return ast.unparse(node).replace("'", '"')


def item_of(returns: str) -> str:
    return re.sub(r"^AsyncIterator\[(.+)\]$", r"\1", returns)


def exceptions_raised(node: ast.AST) -> Iterator[str]:
    for child in ast.walk(node):
        if isinstance(child, ast.Raise) and isinstance(child.exc, ast.Call):
            name = ast.unparse(child.exc.func)
            if name[0].isupper():
                yield name


def class_entry(module: Module, node: ast.ClassDef) -> Entry:
    bases = [ast.unparse(base) for base in node.bases]
    init = next((item for item in node.body if getattr(item, "name", "") == "__init__"), None)
    signature = f"class {node.name}"
    if any(base.endswith(("Error", "Exception")) for base in bases):
        signature = f"exception {node.name}({arguments(init.args) if init else ''})"
    entry = Entry(node.name, signature, ast.get_docstring(node) or "", is_callable=False)
    entry.members = [
        *attributes(module, node.body),
        *attributes(module, init.body if init else [], prefix="self."),
        *methods(module, node),
    ]
    for base in bases:
        if found := module.find(base):
            entry.members += class_entry(*found).members
    return entry


def attributes(module: Module, statements: list[ast.stmt], prefix: str = "") -> Iterator[Entry]:
    comment, line = "", 0
    of_request = []
    for node in statements:
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        target = re.fullmatch(rf"{prefix}([A-Za-z]\w*)", ast.unparse(target_of(node)))
        if not target:
            continue
        name = target[1]
        if isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "_of_request":
            of_request.append(name)
            continue
        # One comment may be about several attributes in a row.
        comment = module.comment(node) or (comment if node.lineno == line + 1 else "")
        line = node.end_lineno or node.lineno
        signature = name
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) != "Final":
            signature = f"{name}: {ast.unparse(node.annotation)}"
        elif isinstance(node.value, ast.Constant):
            signature = f"{name} = {value_of(node.value)}"
        yield Entry(name, signature, comment, is_callable=False)
    if of_request:
        text = "The handshake's own, which Django's decorators read."
        yield Entry(of_request[0], ", ".join(of_request), text, is_callable=False)


def methods(module: Module, node: ast.ClassDef) -> Iterator[Entry]:
    """Yield the public methods, but for those that a base class of others documents."""
    is_subclass = any(module.find(ast.unparse(base)) is None for base in node.bases)
    for item in node.body:
        if not isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        is_public = item.name in ITERATION or not item.name.startswith("_")
        needs_no_docstring = is_subclass or item.name in ITERATION
        if is_public and (ast.get_docstring(item) or not needs_no_docstring):
            yield function_entry(item)


def entries(module: Module) -> Iterator[Entry]:
    """Yield a module's public names, and the classes that its functions return."""
    names = module.public
    for name in names:
        entry = entry_of(module, name)
        yield entry
        for returned in re.findall(r"\w+", entry.signature.partition(" -> ")[2]):
            found = module.find(returned)
            if found and isinstance(found[1], ast.ClassDef) and returned not in names:
                names.append(returned)


# --- what a docstring says ---------------------------------------------------------------------


def said(entry: Entry, others: dict[str, Entry], seen: frozenset[str] = frozenset()) -> str:
    """Return an entry's docstring, and those of the functions that it refers to."""
    texts = [entry.text]
    for exception, name in AS_OTHER.findall(entry.text):
        if not exception and name in others and name not in seen:
            texts.append(said(others[name], others, seen | {entry.name}))
    return "\n\n".join(texts)


def raises(text: str) -> list[str]:
    about = [one for one in re.split(r"(?<=[.:;])\s", text) if re.search(r"\b[Rr]aises?\b", one)]
    return sorted({name for sentence in about for name in EXCEPTION.findall(sentence)})


def settings(text: str) -> list[str]:
    return sorted(set(re.findall(r"WEBSOCKET_[A-Z_]*[A-Z]", text)))


# --- the page ----------------------------------------------------------------------------------


def page() -> str:
    modules = {f"websocket.{name}": Module(f"websocket.{name}") for name in MODULES}
    found = {name: list(entries(module)) for name, module in modules.items()}
    everything = [entry for listed in found.values() for entry in listed]
    functions = {entry.name: entry for entry in everything if entry.is_callable}
    parts = [HEAD]
    for name, module in modules.items():
        parts.append(f"## `{name}`\n\n{flow(module.docstring)}\n")
        for entry in found[name]:
            parts.append(f"### {entry.name}\n")
            parts += body(entry, functions)
            parts += members(entry, functions)
    parts.append(table_of_settings())
    return "\n".join(parts)


def members(entry: Entry, functions: dict[str, Entry]) -> Iterator[str]:
    attributes = [member for member in entry.members if not member.is_callable]
    if attributes:
        rows = [f"| `{cell(one.signature)}` | {cell(one.text)} |" for one in attributes]
        yield "\n".join(["| attribute | |", "|---|---|", *rows]) + "\n"
    own = functions | {member.name: member for member in entry.members if member.is_callable}
    for member in entry.members:
        if member.is_callable:
            yield f"#### {entry.name}: {member.name}\n"
            yield from body(member, own)


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def body(entry: Entry, functions: dict[str, Entry]) -> Iterator[str]:
    yield f"`{entry.signature}`\n"
    assert entry.text, f"{entry.name} is public, and has no docstring and no comment with `#:`."
    yield flow(entry.text) + "\n"
    text = said(entry, functions) if entry.is_callable else entry.text
    raised = raises(text) if entry.is_callable else []
    missing = entry.raised - set(raised)
    assert not missing, f"The docstring of {entry.name}() does not say that it raises {missing}."
    facts = [
        f"{title}: {', '.join(f'`{name}`' for name in names)}."
        for title, names in (("Raises", raised), ("Settings", settings(text)))
        if names
    ]
    if facts:
        yield f"*{' '.join(facts)}*\n"


def flow(docstring: str) -> str:
    """Return a docstring as Markdown: each paragraph on one line, code as it is."""
    paragraphs = []
    for paragraph in docstring.split("\n\n"):
        if paragraph.startswith("    "):
            paragraphs.append(f"```\n{textwrap.dedent(paragraph).rstrip()}\n```")
        else:
            paragraphs.append(" ".join(paragraph.split()))
    return "\n\n".join(paragraphs)


def table_of_settings() -> str:
    conf = Module("websocket.conf")
    rows = ["## Settings\n", "| setting | default | |", "|---|---|---|"]
    for name, node in conf.definitions.items():
        if isinstance(node, ast.AnnAssign):
            rows.append(f"| `WEBSOCKET_{name}` | `{value_of(node.value)}` | {conf.comment(node)} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
