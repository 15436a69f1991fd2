"""What `terraform validate` would say without a network, and what it never says: who may do what.

``python infra/check_terraform.py FOLDER`` reads the folder's ``*.tf`` with python-hcl2 and lists
what is wrong: names that are used and not declared, or declared and not used; roles and members
that allow too much. Whether a resource has an argument of that name, only the provider knows.
"""

import re
import sys
from pathlib import Path

# Nothing smaller than the project takes these: logs, scans of images that are in no registry yet,
# and what the cluster's machines are. Roles of our own say which permissions they hold.
ON_PROJECT = {
    "roles/logging.logWriter",
    "roles/ondemandscanning.admin",
    "roles/container.defaultNodeServiceAccount",
}

_TOO_MUCH = re.compile(r"\broles/(owner|editor|viewer)\b|\ball(Authenticated)?Users\b")
_GRANTS = ("role", "roles", "member", "members", "permissions")
_REFERENCE = re.compile(r"(?<![\w.\"])(?:(var|local)\.(\w+)|(data\.)?(google_\w+)\.(\w+))")


def problems(documents):
    """Lists what is wrong with a folder.

    Args:
        documents: what python-hcl2 reads from each file: kind of block to list of blocks, strings
            in their quotes.

    Returns:
        One line for each fault; empty: none.
    """
    declared, used, found = set(), set(), []
    for document in documents:
        declared |= set(declarations(document))
        for key, text in leaves(document):
            used |= references(text)
            if _TOO_MUCH.search(text):
                found.append(f"{key} = {text}: allows too much, or everybody")
            elif key in _GRANTS and "*" in text:
                found.append(f"{key} = {text}: a wildcard allows what nobody has thought of")
        found += [
            f"{name}: {role} on the whole project; grant it on what it is needed for"
            for name, role in project_roles(document)
            if role.startswith("roles/") and role not in ON_PROJECT
        ]
    found += [f"{name}: used, and not declared" for name in sorted(used - declared)]
    # A resource is there to be made; everything else is there to be used.
    idle = {name for name in declared - used if name.startswith(("var.", "local.", "data."))}
    return found + [f"{name}: declared, and not used" for name in sorted(idle)]


def declarations(document):
    """Gives the names that a file declares, as they are referred to."""
    for kind, prefix in (("variable", "var."), ("resource", ""), ("data", "data.")):
        for block in document.get(kind, []):
            for first, inner in block.items():
                if kind == "variable":
                    yield prefix + bare(first)
                else:
                    yield from (f"{prefix}{bare(first)}.{bare(name)}" for name in inner)
    for block in document.get("locals", []):
        yield from (f"local.{name}" for name in block if not name.startswith("__"))


def leaves(value, key=""):
    """Gives every text of a document, with the name of the argument that holds it."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not name.startswith("__"):
                yield from leaves(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, key)
    elif isinstance(value, str):
        yield key, value


def references(text):
    """Gives the names that a text refers to: all of an expression, of a string what is in ${…}."""
    expressions = re.findall(r"\$\{(.*?)\}", text) if text.startswith('"') else [text]
    names = set()
    for expression in expressions:
        for scope, name, data, kind, resource in _REFERENCE.findall(expression):
            names.add(f"{scope}.{name}" if scope else f"{data}{kind}.{resource}")
    return names


def project_roles(document):
    """Gives name and role of every grant on the whole project."""
    for block in document.get("resource", []):
        for kind, inner in block.items():
            if (
                not bare(kind).startswith("google_project_iam_")
                or bare(kind) == "google_project_iam_custom_role"
            ):
                continue
            for name, body in inner.items():
                for _, text in leaves({key: body.get(key, "") for key in ("role", "for_each")}):
                    yield from (
                        (f"{bare(kind)}.{bare(name)}", role)
                        for role in re.findall(r"roles/[\w.]+", text)
                    )


def bare(label):
    """Takes the quotes off a label."""
    return label.strip('"')


def main():
    """Checks the folder that the command line names."""
    import hcl2

    files = sorted(Path(sys.argv[1]).glob("*.tf"))
    found = problems([hcl2.loads(file.read_text("utf-8")) for file in files])
    if not files:
        found = [f"{sys.argv[1]}: no *.tf there"]
    for line in found:
        print(f"check-terraform: {line}", file=sys.stderr)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
