#!/usr/bin/env python3
"""Fails where files of a crate need each other in a circle.

    .ci/circles.py                          the library and each binding
    .ci/circles.py src/lib.rs …             these crates, each given as its root file
    .ci/circles.py --edges                  prints which file needs which, and where it says so
    .ci/circles.py --self-test              tests this script on little crates of its own

The rule: file A needs file B where A names something that B defines. A file must not need itself by way of
others.

* Names count in `use` and in paths such as `super::gather::lanes` or `kernels::Names`, those in macros too.
* A name is followed through re-exports to the file that defines it. To re-export a name is not to need it: a
  `mod.rs` that declares modules and re-exports their items is in no circle. It is in one where it defines an
  item that a child names, and names the child's items in its own code.
* `mod x;` alone is no need, and neither is the import of a module: what counts is what is named through it.
* `use x::*` needs the file of x, whatever that one re-exports.
* What compiles only for tests (`#[cfg(test)]`), comments (with links in docs) and strings do not count.
* Methods are not followed. `impl Plan` may stand in several files, and who calls a method is not seen.

A file that no `mod` declares is an error too: nothing compiles it.
"""

import re
import sys
import tempfile
from pathlib import Path

TOKEN = re.compile(
    r"""
      (?P<skip>\s+|//[^\n]*|(?:b|c)?"(?:\\.|[^"\\])*"|(?:b|c)?r(?P<hashes>\#*)".*?"(?P=hashes)
        |b?'(?:\\(?:x..|u\{[^}]*\}|.)|[^\\'])'|'\w+)
    | (?P<comment>/\*)
    | (?P<word>\$crate\b|(?:r\#)?[A-Za-z_]\w*)
    | (?P<number>\d[\w.]*)
    | (?P<mark>::|.)
    """,
    re.VERBOSE | re.DOTALL,
)
DEFINES = {"fn", "struct", "enum", "trait", "type", "const", "static", "union"}
CLOSES = {"{": "}", "(": ")", "[": "]"}


class Failure(Exception):
    pass


def tokens(text):
    """Words and marks with their lines."""
    result, at, line = [], 0, 1
    while at < len(text):
        found = TOKEN.match(text, at)
        end = found.end()
        if found["comment"]:
            depth = 1
            while depth:
                edge = re.compile(r"/\*|\*/").search(text, end)
                if edge is None:
                    raise Failure(f"line {line}: a comment without an end")
                depth += 1 if edge[0] == "/*" else -1
                end = edge.end()
        elif found["word"] or found["mark"]:
            result.append((found[0], line))
        line += text.count("\n", at, end)
        at = end
    return result


class Module:
    def __init__(self, file, parent):
        self.file, self.parent = file, parent
        self.children = {}
        self.defined = set()
        # Name in this module -> (path, whether the name is re-exported).
        self.imports = {}
        self.globs = []
        # What this module's code names: (path, line, whether it stands in `use`).
        self.named = []

    def root(self):
        return self if self.parent is None else self.parent.root()


class Parser:
    """Fills a module from the tokens of its file (or of its braces)."""

    def __init__(self, crate, file):
        self.crate, self.file = crate, file
        self.tokens = tokens(file.read_text())
        self.at = 0

    def peek(self, ahead=0):
        return self.tokens[self.at + ahead][0] if self.at + ahead < len(self.tokens) else None

    def skip_group(self):
        """Over a bracket, what it holds and the bracket that closes it."""
        depth = 0
        while self.peek() is not None:
            depth += (self.peek() in "{([") - (self.peek() in "})]")
            self.at += 1
            if depth == 0:
                return

    def skip_item(self):
        """Over one item: to its semicolon, or over its braces."""
        while self.peek() not in (None, ";", "{"):
            self.skip_group() if self.peek() in "([" else self.step()
        self.skip_group() if self.peek() == "{" else self.step()

    def step(self):
        self.at += 1

    def module(self, module):
        depth = 0
        is_public = False
        while (token := self.peek()) is not None:
            line = self.tokens[self.at][1]
            before = self.tokens[self.at - 1][0] if self.at else None
            if token == "#" and [self.peek(i) for i in range(1, 6)] == ["[", "cfg", "(", "test", ")"]:
                self.step()
                self.skip_group()
                while self.peek() == "#":
                    self.step()
                    self.skip_group()
                self.skip_item()
                continue
            if token == "{":
                depth += 1
            elif token == "}":
                if depth == 0:
                    return
                depth -= 1
            elif token == "pub":
                is_public = True
                self.step()
                if self.peek() == "(":
                    self.skip_group()
                continue
            elif token == "use" and before not in ("::", "."):
                self.step()
                self.use_tree(module, [], is_public)
            elif token == "mod" and self.peek(2) in (";", "{"):
                name = self.peek(1)
                inline = self.peek(2) == "{"
                self.at += 3
                self.child(module, name, inline, line)
                continue
            elif token == "macro_rules" and self.peek(1) == "!":
                if depth == 0:
                    module.defined.add(self.peek(2))
                self.at += 2
            elif token in DEFINES and depth == 0 and re.match(r"\w", self.peek(1) or ""):
                module.defined.add(self.peek(1))
                # `const fn f`, `union` as a plain word and the like: the next word is looked at in its turn.
                if self.peek(1) not in DEFINES:
                    self.step()
            elif re.match(r"[\w$]", token) and before not in ("::", ".", "fn"):
                path = [token]
                while self.peek(1) == "::" and re.match(r"\w", self.peek(2) or ""):
                    path.append(self.peek(2))
                    self.at += 2
                module.named.append((path, line, False))
            is_public = False
            self.step()

    def use_tree(self, module, prefix, is_public):
        path = list(prefix)
        if self.peek() == "::":
            self.step()
            path = ["::"]
        while True:
            token, line = self.tokens[self.at]
            if token == "{":
                self.step()
                while self.peek() != "}":
                    self.use_tree(module, path, is_public)
                    if self.peek() == ",":
                        self.step()
                self.step()
                return
            self.step()
            if token == "*":
                module.globs.append(path)
                module.named.append((path + ["*"], line, True))
                return
            if token != "self" or not path:
                path.append(token)
            if self.peek() == "::":
                self.step()
                continue
            name = path[-1]
            if self.peek() == "as":
                name = self.peek(1)
                self.at += 2
            # `pub(super) use names;` of a macro of this file names what it defines.
            if path != [name]:
                module.imports[name] = (path, is_public)
            if not is_public:
                module.named.append((path, line, True))
            return

    def child(self, module, name, inline, line):
        if inline:
            inner = module.children[name] = Module(self.file, module)
            self.module(inner)
            self.step()
            return
        is_root_of_folder = self.file.name in ("mod.rs", "lib.rs", "main.rs")
        folder = self.file.parent if is_root_of_folder else self.file.with_suffix("")
        for file in (folder / f"{name}.rs", folder / name / "mod.rs"):
            if file.exists():
                inner = module.children[name] = Module(file, module)
                self.crate.files.append(file)
                Parser(self.crate, file).module(inner)
                return
        raise Failure(f"{self.file}:{line}: no file for `mod {name};` (the attribute `path` is not read)")


class Crate:
    def __init__(self, root):
        self.files = [root]
        self.root = Module(root, None)
        Parser(self, root).module(self.root)
        unused = set(root.parent.rglob("*.rs")) - set(self.files) - {root.parent / "main.rs"}
        if unused:
            raise Failure(f"no `mod` declares {', '.join(sorted(map(str, unused)))}")

    def enter(self, module, name, seen):
        """What `name` is inside of `module`: a module, the file that defines it, or None (foreign)."""
        if name in module.children:
            return module.children[name]
        if name in module.defined:
            return module.file
        if name in module.imports and (id(module), name) not in seen:
            return self.find(module, module.imports[name][0], seen | {(id(module), name)})
        for path in module.globs:
            if (id(module), tuple(path)) not in seen:
                inside = seen | {(id(module), tuple(path))}
                there = self.find(module, path, inside)
                found = self.enter(there, name, inside) if isinstance(there, Module) else None
                if found is not None:
                    return found
        return None

    def find(self, module, path, seen=frozenset()):
        if path[0] == "::":
            return None
        start = {"crate": module.root(), "$crate": module.root(), "self": module, "super": module.parent}
        here, rest = start.get(path[0]), path[1:]
        if here is None:
            here = self.enter(module, path[0], seen)
        for name in rest:
            if not isinstance(here, Module):
                break
            if name == "super":
                here = here.parent
            else:
                # A name that a macro made is the module's own, and so is `*`.
                here = self.enter(here, name, seen) or here.file
        return here

    def edges(self):
        """(file, file) -> (line, what the first file names there)."""
        result = {}
        modules = [self.root]
        for module in modules:
            modules.extend(module.children.values())
            for path, line, in_use in module.named:
                if len(path) == 1 and not in_use:
                    # A single word needs another file only where it was re-exported here under that name:
                    # other imports count where they are made.
                    if not module.imports.get(path[0], (None, False))[1]:
                        continue
                there = self.find(module, path)
                if isinstance(there, Path) and there != module.file:
                    known = result.setdefault((module.file, there), (line, "::".join(path)))
                    if line < known[0]:
                        result[module.file, there] = (line, "::".join(path))
        return result


def shortest_circle(edges):
    """The files of a shortest circle (the first in the order of names), or None."""
    needs = {}
    for a, b in sorted(edges):
        needs.setdefault(a, []).append(b)
    best = None
    for start in needs:
        routes = [[start]]
        seen = set()
        while routes and (best is None or len(routes[0]) < len(best)):
            route = routes.pop(0)
            for file in needs.get(route[-1], ()):
                if file == start:
                    if best is None or len(route) < len(best):
                        best = route
                elif file not in seen:
                    seen.add(file)
                    routes.append(route + [file])
    return best


def circles(edges):
    """Circles without a common edge, short ones first. Others may share an edge with these: they show up once
    these are gone."""
    left = set(edges)
    result = []
    while circle := shortest_circle(left):
        result.append(circle)
        left -= set(zip(circle, circle[1:] + circle[:1]))
    return result


def check(root, print_edges=False):
    """The number of circles, after their report."""
    edges = Crate(root).edges()

    def report(a, b):
        line, name = edges[a, b]
        print(f"  {a}:{line}: names {name}, of {b}")

    if print_edges:
        for a, b in sorted(edges):
            report(a, b)
    found = circles(edges)
    for circle in found:
        print(f"a circle of {len(circle)} files:")
        for a, b in zip(circle, circle[1:] + circle[:1]):
            report(a, b)
    return len(found)


def self_test():
    """Each little crate with the circles that it has, by the names of their files."""
    cases = {
        "a circle of two": (
            {
                "lib.rs": "mod a;\nmod b;",
                "a.rs": "use crate::b::B;\npub struct A;",
                "b.rs": "use super::a::A;\npub struct B;",
            },
            [["a", "b"]],
        ),
        "a circle of three through inline paths and a group": (
            {
                "lib.rs": "mod a; mod b; mod c;",
                "a.rs": "use crate::{b::{self, B}, c};\npub struct A;",
                "b.rs": "pub struct B(crate::c::C);",
                "c.rs": "pub struct C; fn f() -> crate::a::A { super::a::A }",
            },
            [["a", "b", "c"]],
        ),
        "through a re-export": (
            {
                "lib.rs": "mod a; mod b; pub use a::A; pub use b::B;",
                "a.rs": "use crate::B; pub struct A;",
                "b.rs": "use crate::A as Other; pub struct B;",
            },
            [["a", "b"]],
        ),
        "a macro of another file": (
            {
                "lib.rs": "mod a; mod b;",
                "a.rs": "macro_rules! m { () => { $crate::b::f() } } pub(crate) use m;",
                "b.rs": "use crate::a::m; pub fn f() {}",
            },
            [["a", "b"]],
        ),
        "a mod.rs that defines what its child names, and names the child": (
            {
                "lib.rs": "mod m;",
                "m/mod.rs": "mod a;\npub use a::A;\npub struct Plan;\nfn f() -> A { A }",
                "m/a.rs": "use super::Plan;\npub struct A;",
            },
            [["a", "mod"]],
        ),
        "the same by the child's own path": (
            {
                "lib.rs": "mod m;",
                "m.rs": "mod a;\npub struct Plan(a::A);",
                "m/a.rs": "pub struct A(Option<Box<super::Plan>>);",
            },
            [["a", "m"]],
        ),
        "a glob": (
            {
                "lib.rs": "mod a; mod b;",
                "a.rs": "use crate::b::*; pub struct A;",
                "b.rs": "pub struct B(crate::a::A);",
            },
            [["a", "b"]],
        ),
        "re-exports alone, tests, docs and strings": (
            {
                "lib.rs": "//! [crate::a::A]\nmod m;\npub use m::{A, Plan};",
                "m/mod.rs": "mod a;\nmod b;\npub use a::A;\npub use b::f;\npub struct Plan;",
                "m/a.rs": "use super::Plan;\npub struct A;\n"
                "/// [f](super::b::f)\n/* use super::b::f; /* nested */ */\n"
                "const S: &str = \"use super::b::f;\"; const R: &str = r#\"super::b::f \" \"#;\n"
                "const C: (char, u8) = ('\"', b'\\''); fn g<'a>(x: &'a str) -> &'a str { x }\n"
                "#[cfg(test)]\n#[allow(unused)]\nmod tests { use super::super::b::f; }",
                "m/b.rs": "use super::{A, Plan};\npub fn f() {}",
            },
            [],
        ),
        "a module that is named for the items of another": (
            {
                "lib.rs": "mod m; mod c;",
                "m/mod.rs": "mod a; pub use a::A; fn f() -> crate::c::C { crate::c::C }",
                "m/a.rs": "pub struct A;",
                "c.rs": "use crate::m; pub struct C; fn g() -> m::A { m::A }",
            },
            [],
        ),
    }
    for name, (files, expected) in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            for file, text in files.items():
                file = Path(folder) / file
                file.parent.mkdir(exist_ok=True)
                file.write_text(text)
            edges = Crate(Path(folder) / "lib.rs").edges()
            found = [sorted(file.stem for file in circle) for circle in circles(edges)]
            if found != expected:
                raise Failure(f"self-test, {name}: {found} instead of {expected}")
            for (file, _), (line, path) in edges.items():
                text = file.read_text().splitlines()[line - 1]
                if path.split("::")[-1] not in text:
                    raise Failure(f"self-test, {name}: {file.name}:{line} does not name {path}")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "lib.rs").write_text("")
        (Path(folder) / "lost.rs").write_text("")
        try:
            Crate(Path(folder) / "lib.rs")
        except Failure:
            pass
        else:
            raise Failure("self-test: a file that no module declares was not found")
    print(f"{len(cases) + 1} self-tests passed")


def main(arguments):
    if arguments == ["--self-test"]:
        return self_test()
    print_edges = "--edges" in arguments
    roots = [Path(argument) for argument in arguments if argument != "--edges"]
    roots = roots or [Path("src/lib.rs"), *sorted(Path("bindings").glob("*/src/lib.rs"))]
    found = sum(check(root, print_edges) for root in roots)
    if found:
        raise Failure(f"{found} circles between files")
    print(f"no circle between files below {', '.join(str(root.parent) for root in roots)}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Failure as failure:
        sys.exit(f"{failure}")
