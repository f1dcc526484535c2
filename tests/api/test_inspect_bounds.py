"""No body makes /v1/inspect compute or send without bound: lists have lengths and no repeats, names and their faults are short."""

import pytest

PATH = "/v1/inspect"
LONG = "blocks." + "9" * 5000 + ".x"
MANY = [0] * 100_000
BODIES = {
    "positions that repeat": ({"positions": [0] * 40_000, "summaries": ["norms"]}, "positions"),
    "positions that are one": ({"positions": [0, -2], "prompt": [1, 2]}, "positions[1]"),
    "more positions than any text has": ({"positions": MANY}, "positions"),
    "summaries that repeat": ({"summaries": ["lens", "lens"]}, "summaries[1]"),
    "a long name": ({"names": [LONG]}, "names"),
    "a long pattern": ({"names": ["*a" * 100_000]}, "names"),
    "many heads": ({"ablations": [{"kind": "attention_window", "size": 1, "head": MANY}]}, "ablations[0].head"),
    "heads that repeat": ({"ablations": [{"kind": "head", "head": [1, 1]}]}, "ablations[0].head[1]"),
    "many layers": ({"ablations": [{"kind": "mlp", "layer": MANY}]}, "ablations[0].layer"),
    "a long name of a patch": ({"ablations": [{"kind": "patch", "name": LONG, "prompt": [1]}]}, "ablations[0].name"),
    "a long name of a direction": ({"ablations": [{"kind": "steer", "name": LONG, "token": 1}]}, "ablations[0].name"),
}


@pytest.mark.parametrize("case", BODIES)
def test_what_has_no_bound_is_refused_in_few_words(client, case):
    fields, field = BODIES[case]
    response = client.post(PATH, json={"prompt": [1, 2, 3], "max_new_tokens": 0} | fields)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"].startswith(field)
    assert len(error["message"]) < 400
