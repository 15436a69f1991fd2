"""What `terraform validate` would say without a network, and what it never says: who may do what.

``python infra/check_terraform.py FOLDER WHEEL`` reads the folder's ``*.tf`` with python-hcl2 and
lists what is wrong: names that are used and not declared, or declared and not used; roles and
members that allow too much; resources, blocks and arguments that the provider does not know. Its
schema comes from a wheel of cdktf-cdktf-provider-google (jsii's description of every class, made
from the provider's own schema), which is not installed.
"""

import io
import json
import re
import sys
import tarfile
import zipfile
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
# Arguments that are Terraform's own, of every resource.
_META = {"count", "depends_on", "for_each", "lifecycle", "provider"}


def problems(documents):
    """Lists what is wrong with a folder by itself.

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
        for kind, name, body in blocks(document, "resource"):
            if re.match("google_project_iam_(?!custom_role$)", kind):
                texts = (text for _, text in leaves([body.get("role"), body.get("for_each")]))
                found += [
                    f"{kind}.{name}: {role} on the whole project; grant it on what it is needed for"
                    for role in re.findall(r"roles/[\w.]+", " ".join(texts))
                    if role not in ON_PROJECT
                ]
    found += [f"{name}: used, and not declared" for name in sorted(used - declared)]
    # A resource is there to be made; everything else is there to be used.
    idle = {name for name in declared - used if name.startswith(("var.", "local.", "data."))}
    return found + [f"{name}: declared, and not used" for name in sorted(idle)]


def blocks(document, section):
    """Gives kind, name and body of every resource, or of every data source."""
    for block in document.get(section, []):
        for kind, named in block.items():
            for name, body in named.items():
                yield kind.strip('"'), name.strip('"'), body


def declarations(document):
    """Gives the names that a file declares, as they are referred to."""
    for section, prefix in (("variable", "var."), ("locals", "local.")):
        for block in document.get(section, []):
            yield from (prefix + name.strip('"') for name in block if name[:2] != "__")
    for section, prefix in (("resource", ""), ("data", "data.")):
        yield from (f"{prefix}{kind}.{name}" for kind, name, _ in blocks(document, section))


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


def schema(wheel):
    """Reads what the provider takes.

    Args:
        wheel: path of the wheel.

    Returns:
        Name of an interface to its properties, by name: whether each must be given, and the name of
        the interface of a block, or None.
    """
    with zipfile.ZipFile(wheel) as files:
        (name,) = (each for each in files.namelist() if each.endswith(".jsii.tgz"))
        content = io.BytesIO(files.read(name))
    with tarfile.open(fileobj=content, mode="r:gz") as package:
        types = json.load(package.extractfile("package/.jsii"))["types"]
    return {
        each["fqn"].partition(".")[2]: {
            row["name"]: (not row.get("optional", False), _interface(row["type"]))
            for row in each.get("properties", [])
        }
        for each in types.values()
        if each["kind"] == "interface"
    }


def _interface(kind):
    """That of a block, whether there may be one of it or several."""
    for key, name in leaves(kind):
        if key == "fqn" and not name.startswith("cdktf."):
            return name.partition(".")[2]
    return None


def unknown(document, interfaces):
    """Lists what the provider would refuse in a file.

    Args:
        document: what python-hcl2 reads from it.
        interfaces: as `schema` gives them.
    """
    found = []
    for section, prefix in (("resource", ""), ("data", "data_google_")):
        for label, name, body in blocks(document, section):
            kind = _camel(prefix + label.removeprefix("google_"))
            interface = f"{kind}.{kind[0].upper()}{kind[1:]}Config"
            if interface in interfaces:
                found += _refused(f"{label}.{name}", body, interface, interfaces)
            else:
                found.append(f"{label}.{name}: the provider has no such {section}")
    return found


def _refused(place, body, interface, interfaces):
    known = interfaces[interface]
    names = {_camel(name): name for name in body if name[:2] != "__" and name not in _META}
    for name in sorted(names.keys() - known.keys()):
        yield f"{place}: there is no argument {names[name]}"
    for name, (required, _) in known.items():
        if required and name not in names:
            yield f"{place}: {name} must be given"
    for name in sorted(names.keys() & known.keys()):
        value, block = body[names[name]], known[name][1]
        bodies = value if isinstance(value, list) else [value]
        is_block = any(isinstance(each, dict) and "__is_block__" in each for each in bodies)
        if is_block != (block is not None):
            yield f"{place}: {names[name]} is {'no' if is_block else 'a'} block"
        elif block:
            for each in bodies:
                yield from _refused(f"{place}.{names[name]}", each, block, interfaces)


def _camel(name):
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def main():
    """Checks the folder that the command line names, with the wheel that it names."""
    import hcl2

    folder, wheel = sys.argv[1:]
    documents = [hcl2.loads(file.read_text("utf-8")) for file in sorted(Path(folder).glob("*.tf"))]
    found = problems(documents) if documents else [f"{folder}: no *.tf there"]
    interfaces = schema(wheel)
    for document in documents:
        found += unknown(document, interfaces)
    for line in found:
        print(f"check-terraform: {line}", file=sys.stderr)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
