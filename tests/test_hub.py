"""A model that the hub does not give is one message, whatever the network did."""

import json

import pytest

from tadp_d2.errors import UserError
from tadp_d2.hub import fetch


class _CutOff(Exception):
    """As httpx's RemoteProtocolError, which is no OSError."""


@pytest.mark.parametrize(
    "error", [_CutOff("peer closed connection"), json.JSONDecodeError("no JSON", "<html>", 0)]
)
def test_an_error_of_a_transport_is_a_message(error, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("tadp_d2.hub.snapshot_download", fail)
    with pytest.raises(UserError) as raised:
        fetch("owner/name", "", ["*.json"], "model", "Fetch it elsewhere")
    message = str(raised.value)
    assert message.startswith("no model 'owner/name'") and message.endswith("Fetch it elsewhere")
    assert str(error) in message
