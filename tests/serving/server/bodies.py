"""Bodies of predict requests, right, nearly right and wrong, and what they mean."""

import base64
import json

from hypothesis import strategies as st

_numbers = st.one_of(
    st.integers(-(2**70), 2**70),
    st.integers(-100, 100),
    st.floats(width=32),
    st.floats(),
    st.sampled_from([2**24 - 1, 2**24, 2**53, 2**63, 2**64, -(2**63), 255, 256, 1e39, 10**400]),
)
_base64 = st.one_of(
    st.binary(max_size=8).map(lambda raw: {"b64": base64.b64encode(raw).decode()}),
    st.just({"b64": "*"}),
)
_halves = st.sampled_from(["\ud83d", "a\ude00"])  # Of pairs that are no characters.
_texts = st.one_of(st.text(max_size=8), _halves)
_leaves = st.one_of(_numbers, _texts, st.booleans(), st.none(), _base64)


def _nested(leaves):
    """Lists that are rectangular."""
    return st.lists(st.integers(0, 3), max_size=4).flatmap(lambda shape: _of_shape(shape, leaves))


def _of_shape(shape, leaves):
    values = leaves
    for size in reversed(shape):
        values = st.lists(values, min_size=size, max_size=size)
    return values


def _values(names):
    anything = st.recursive(
        _leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.dictionaries(
                st.one_of(st.sampled_from(names), st.text(max_size=3)), inner, max_size=3
            ),
        ),
        max_leaves=12,
    )
    regular = [_nested(leaves) for leaves in (_numbers, _texts, _base64, st.booleans())]
    return st.one_of(*regular, anything)


def _rows(names):
    value = _values(names)
    named = st.fixed_dictionaries(dict.fromkeys(names, value))
    more = st.fixed_dictionaries(dict.fromkeys(names, st.just(1)), optional={"z": st.just(1)})
    same = st.lists(st.integers(0, 2), max_size=3).flatmap(
        lambda shape: st.lists(_of_shape(shape, st.floats(width=32)), min_size=1, max_size=4)
    )
    each = [st.lists(kind, max_size=4) for kind in (value, named, more, st.one_of(value, named))]
    return st.one_of(same, *each)


def bodies(names):
    """Bytes that ask for `names`: JSON of requests, some of it broken, some followed by more."""
    documents = st.one_of(
        st.fixed_dictionaries({"instances": _rows(names)}),
        st.fixed_dictionaries({"inputs": _values(names)}),
        st.fixed_dictionaries(
            {"inputs": st.fixed_dictionaries(dict.fromkeys(names, _values(names)))}
        ),
        st.dictionaries(
            st.one_of(
                st.sampled_from(["instances", "inputs", "signature_name"]), st.text(max_size=3)
            ),
            _values(names),
        ),
        _values(names),
    )
    ascii_or_not = st.booleans()
    texts = st.builds(
        lambda document, escaped: json.dumps(document, ensure_ascii=escaped),
        documents,
        ascii_or_not,
    )
    whole = texts.map(lambda text: text.encode("utf-8", "surrogatepass"))
    broken = st.builds(
        _broken, whole, st.integers(0, 10**6), st.integers(0, 3), st.binary(max_size=4)
    )
    return st.one_of(whole, whole, broken)


def _broken(body, place, cut, junk):
    place %= len(body)
    return body[:place] + junk + body[place + cut :]


def first_object(body):
    """Reads the object that a body starts with, by the standard library alone."""
    return json.JSONDecoder().raw_decode(body.decode("utf-8-sig").lstrip(" \t\r\n"))[0]
