"""Holds every resource, block and argument of Terraform files against the provider's schema.

``python infra/check_provider.py FOLDER WHEEL`` reads the folder's ``*.tf`` with python-hcl2, and
the schema from a wheel of cdktf-cdktf-provider-google (jsii's description of every class, made from
the provider's own schema), which is not installed: what ``terraform validate`` would say of names
after an ``init``, without a network.
"""

import io
import json
import sys
import tarfile
import zipfile
from pathlib import Path

# Terraform's own, of every resource.
_META = {"count", "depends_on", "for_each", "lifecycle", "provider"}


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
            row["name"]: (not row.get("optional", False), _block(row["type"]))
            for row in each.get("properties", [])
        }
        for each in types.values()
        if each["kind"] == "interface"
    }


def _block(kind):
    """The interface of a block, whether there may be one of it or several."""
    for each in kind.get("union", {}).get("types", [kind]):
        name = each.get("collection", {}).get("elementtype", each).get("fqn", "")
        if name and not name.startswith("cdktf."):
            return name.partition(".")[2]
    return None


def problems(document, interfaces):
    """Lists what the provider would refuse in a file.

    Args:
        document: what python-hcl2 reads from it.
        interfaces: as `schema` gives them.
    """
    found = []
    for section, prefix in (("resource", ""), ("data", "data_google_")):
        for block in document.get(section, []):
            for label, named in block.items():
                kind = _camel(prefix + label.strip('"').removeprefix("google_"))
                interface = f"{kind}.{kind[0].upper()}{kind[1:]}Config"
                for name, body in named.items():
                    place = f"{label}.{name}".replace('"', "")
                    if interface not in interfaces:
                        found.append(f"{place}: the provider has no such {section}")
                    else:
                        found += _body(place, body, interface, interfaces)
    return found


def _body(place, body, interface, interfaces):
    known = interfaces[interface]
    given = {name for name in body if not name.startswith("__")} - _META
    names = {_camel(name): name for name in given}
    for name in sorted(names.keys() - known.keys()):
        yield f"{place}: there is no argument {names[name]}"
    for name, (required, _) in known.items():
        if required and name not in names:
            yield f"{place}: {name} must be given"
    for name in sorted(names.keys() & known.keys()):
        value, block = body[names[name]], known[name][1]
        blocks = value if isinstance(value, list) else [value]
        is_block = any(isinstance(each, dict) and "__is_block__" in each for each in blocks)
        if is_block != (block is not None):
            yield f"{place}: {names[name]} is {'no' if is_block else 'a'} block"
        elif block:
            for each in blocks:
                yield from _body(f"{place}.{names[name]}", each, block, interfaces)


def _camel(name):
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def main():
    """Checks the folder and wheel that the command line names."""
    import hcl2

    folder, wheel = sys.argv[1:]
    interfaces = schema(wheel)
    found = [
        problem
        for file in sorted(Path(folder).glob("*.tf"))
        for problem in problems(hcl2.loads(file.read_text("utf-8")), interfaces)
    ]
    for line in found:
        print(f"check-provider: {line}", file=sys.stderr)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
