"""Configuration: what is right is read; what is wrong is said, all at once, with its line."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.adapters.base import Adapter
from gateway.config import Configuration, load
from gateway.errors import ConfigError
from gateway.registry import Registry
from gateway.typed import ConfigErrors

GOOD = """\
[gateway]
name = "north"
zone = "Europe/Berlin"

[media]
ports = [20000, 20999]

[adapters.loopback.ports]
echo = { number = "600" }
alarm = { number = "601", tone_hz = 440 }

[adapters.lab]
kind = "loopback"
ports.one = {}

[[routes]]
name = "to the lab"
called = "9(X.)"
targets = ["lab/one", "directory:{1}"]
"""


class _Registry(Registry):
    """The adapters of this project, wherever the tests run from."""

    def __init__(self) -> None:
        from importlib.metadata import EntryPoint

        group = "gateway.adapters"
        super().__init__(
            [
                EntryPoint("loopback", "gateway.adapters.loopback:Loopback", group),
                EntryPoint("discovering", "tests.test_config:Discovering", group),
                EntryPoint("vault", "tests.test_config:Vault", group),
            ]
        )


from gateway.adapters.loopback import Loopback  # noqa: E402
from gateway.adapters.secrets import Secret  # noqa: E402


class Discovering(Loopback):
    kind = "discovering"
    creates_endpoints = True


class Vault(Adapter):
    kind = "vault"

    class Config(Loopback.Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
        password: Secret
        token: str = ""
        pins: dict[str, str] = msgspec.field(default_factory=dict)


Read = Callable[[str], Configuration]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def load_text(text: str) -> Configuration:
        path = tmp_path / "gateway.toml"
        path.write_text(text)
        return load(path, registry=_Registry())

    return load_text


def _errors(read: Read, text: str) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        read(text)
    assert isinstance(caught.value, ConfigError)
    lines = str(caught.value).splitlines()
    return [line.rpartition("gateway.toml:")[2] for line in lines]


def test_a_good_file(read: Read) -> None:
    found = read(GOOD)
    assert found.gateway.name == "north"
    assert found.media.ports == (20000, 20999)
    assert list(found.adapters) == ["loopback", "lab"]
    assert found.adapters["lab"].adapter is Loopback
    assert found.adapters["loopback"].config.ports["alarm"].tone_hz == 440  # type: ignore[attr-defined]
    assert found.routes[0].targets == ("lab/one", "directory:{1}")
    assert found.table().routes[0].name == "to the lab"
    assert found.warnings == ()


def test_an_empty_file_is_a_box_that_does_nothing(read: Read) -> None:
    assert read("").adapters == {}


def test_all_errors_in_one_go_in_the_order_of_the_file(read: Read) -> None:
    text = """\
[gateway]
name = "Not A Box"
zoen = "UTC"
[media]
ports = [20000, 99999]
max_streams = "many"
[adapters.loopback.ports]
echo = { answr_s = 1 }
late = { answer_s = -1 }
[adapters.radio]
[[routes]]
name = "r"
targets = ["loopback/ehco"]
[[routes]]
targets = ["x"]
"""
    assert _errors(read, text) == [
        "3: gateway.zoen: unknown key (did you mean zone?)",
        "5: media.ports[1]: must be a whole number <= 65535",
        "6: media.max_streams: is text in quotes, not a whole number",
        "8: adapters.loopback.ports.echo.answr_s: unknown key (did you mean answer_s?)",
        "9: adapters.loopback.ports.late.answer_s: must be a number >= 0.0",
        "10: adapters.radio.kind: no adapter is called 'radio' "
        "(known: discovering, loopback, vault)",
        "14: routes[1].name: is missing (give it text in quotes)",
    ]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('[gateway]\nname = "UP"', "2: gateway.name: 'UP' cannot be the name of a box"),
        ('[gateway]\nzone = "Mars/Base"\n', "2: gateway.zone: time zone 'Mars/Base' is not known"),
        ("[media]\nports = [3000, 2000]\n", "2: media.ports: 3000 to 2000 holds no pair"),
        ("[media]\nports = [3000]\n", "2: media.ports"),
        ('[media]\nlocal_ip = "localhost"\n', "2: media.local_ip: 'localhost' is no IP address"),
        ('[gateway]\nlog_level = "loud"\n', "2: gateway.log_level: 'loud' is not a legal value"),
        ("[gatewya]\n", "1: gatewya: unknown section (did you mean gateway?)"),
        ("gateway = 1\n", "1: gateway: is a whole number, not a table"),
        ("adapters = []\n", "1: adapters: is not a table"),
        ("adapters.loopback = 3\n", "1: adapters.loopback: is not a table"),
        ("[adapters.Loop]\nkind='loopback'\n", "1: adapters.Loop: 'Loop' cannot be a name"),
        ("[adapters.x]\nkind = 5\n", "2: adapters.x.kind: is not text in quotes"),
        ("[adapters.gateway]\nkind='loopback'\n", "1: adapters.gateway: is the name"),
        ("[routes]\n", "1: routes: is not a list of tables (write [[routes]])"),
        ("routes = [1]\n", "1: routes[0]: is a whole number, not a table"),
        ('[[routes]]\nname="a"\nhours = "Mun 1:00-2:00"\n', "3: routes[0].hours: hours 'mun"),
        ('[[routes]]\nname="a"\ncalled = "[1"\n', "3: routes[0].called: number pattern '[1'"),
        ('[[routes]]\nname="a"\non = "cal"\n', "3: routes[0].on: 'cal' is not a legal value "),
        ('[[routes]]\nname="a"\n[[routes]]\nname="a"\n', "4: routes[1].name: 'a' is used twice"),
        ('[[routes]]\nname="a"\n[routes.announce]\nfile="no.wav"\n', "4: routes[0].announce.file"),
        ('[[routes]]\nname="a"\nannounce = {file="../../../etc/passwd"}\n', "leads out of"),
        ('[[routes]]\nname="a"\nannounce = {}\n', "3: routes[0].announce: 0 of file, tone and"),
        ("[gateway\n", "1: not TOML"),
        ('[gateway]\nname = "a"\nname = "b"\n', "3: not TOML: cannot overwrite a value"),
        ("[gateway]\nname = \n", "2: not TOML: invalid value"),
    ],
)  # fmt: skip
def test_one_error(read: Read, text: str, error: str) -> None:
    assert error in "\n".join(_errors(read, text))


def test_an_endpoint_of_two_adapters(read: Read, tmp_path: Path) -> None:
    class Same(Loopback):
        kind = "same"

        def endpoints(self):  # type: ignore[no-untyped-def]
            from gateway.core.endpoints import Endpoint

            yield Endpoint(id="loopback/echo")

    registry = _Registry()
    plain = registry.load
    registry.load = lambda kind: Same if kind == "same" else plain(kind)  # type: ignore[method-assign]
    path = tmp_path / "two.toml"
    path.write_text("[adapters.loopback]\n\n[adapters.same]\n")
    with pytest.raises(
        ConfigErrors, match=r"two.toml:3: adapters.same: endpoint loopback/echo is "
    ):
        load(path, registry=registry)


def test_routes_to_endpoints_that_nobody_defines(read: Read) -> None:
    text = "[adapters.loopback]\n[[routes]]\nname = 'r'\ntargets = ['loopback/ehco', 'sip/x:{1}']\n"
    assert _errors(read, text.replace("name", "called = '(X)'\nname")) == [
        "5: routes[0].targets[0]: no adapter defines endpoint loopback/ehco "
        "(did you mean loopback/echo?)",
        "5: routes[0].targets[1]: no adapter defines endpoint sip/x (known: loopback/echo)",
    ]
    found = read(text.replace("adapters.loopback", "adapters.discovering")
                 .replace("'loopback/ehco', 'sip/x:{1}'", "'discovering/later'"))  # fmt: skip
    assert ["discovering/later" in warning for warning in found.warnings] == [True]


def test_outputs_that_are_not_there(read: Read) -> None:
    text = (
        "[adapters.loopback]\n[[routes]]\nname = 'r'\n"
        "outputs = [{ endpoint = 'loopback/echo', output = 'siren' }]\n"
    )
    assert _errors(read, text) == [
        "4: routes[0].outputs[0].output: loopback/echo has no output 'siren' (it has none at all)"
    ]


def test_doubts_are_warnings(read: Read) -> None:
    found = read(GOOD + "[[routes]]\nname = 'idle'\nfrom = ['fxs/*']\n")
    assert [warning.rpartition("gateway.toml:")[2] for warning in found.warnings] == [
        "22: routes[1].from[0]: no configured endpoint matches 'fxs/*' "
        "(known: lab/one, loopback/alarm, loopback/echo)",
        "20: routes[1]: does nothing (give it targets, page, announce or refuse)",
    ]


VAULT = "[adapters.vault]\n"


def test_secrets_from_files_and_environment(
    read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pw").write_text("from file\n")
    monkeypatch.setenv("THE_TOKEN", "from env")
    found = read(
        VAULT + "password = { file = 'pw' }\ntoken = { env = 'THE_TOKEN' }\n"
        "pins = { guard = { file = 'pw' }, boss = '1234' }\n"
    )
    config = found.adapters["vault"].config
    assert isinstance(config, Vault.Config)
    assert config.password.reveal() == "from file"
    assert config.token == "from env"
    assert config.pins == {"guard": "from file", "boss": "1234"}
    assert "from file" not in repr(config.password)


def test_a_secret_that_is_not_there(read: Read) -> None:
    assert _errors(read, VAULT + "password = { env = 'NO_SUCH_VARIABLE_HERE' }\n") == [
        "2: adapters.vault.password: the environment has no variable NO_SUCH_VARIABLE_HERE"
    ]
    (error,) = _errors(read, VAULT + "password = { file = 'nothing' }\n")
    assert error.startswith("2: adapters.vault.password: cannot read ")
    assert error.endswith("nothing: No such file or directory")


def test_secrets_do_not_show_in_errors(read: Read) -> None:
    text = VAULT + "password = 'hunter2'\npins = { guard = 41414141 }\nnumbre = 'x'\n"
    errors = "\n".join(_errors(read, text))
    assert "hunter2" not in errors
    assert "41414141" not in errors
    assert "numbre" in errors


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"[gateway]\nname = 'a\0b'\n", ":2: holds a NUL character"),
        (b"[gateway]\nname = '\xff'\n", ":2: byte 0xff is not UTF-8 (save it as UTF-8)"),
        (b"#" * (10 << 20), ": is larger than 1 MiB"),
        (b"a = " + b"[" * 100_000 + b"]" * 100_000, ": nested too deeply"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, data: bytes, error: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigErrors) as caught:
        load(path)
    assert f"bad.toml{error}" in str(caught.value)


def test_no_file_and_no_right(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors, match=r"No such file or directory \(give the right path"):
        load(tmp_path / "none.toml")
    with pytest.raises(ConfigErrors, match="Is a directory"):
        load(tmp_path)
    with pytest.raises(ConfigErrors, match="is not a file"):
        load("/dev/zero")


def test_windows_line_ends_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "dos.toml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load(path, registry=_Registry()).gateway.name == "north"


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_mutated_files_never_raise_anything_else(read: Read, seed: int) -> None:
    chance = random.Random(seed)
    text = GOOD
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(text))
        change = chance.choice(
            ["", "\n", '"', "[", "]", "=", "9", "{", "x", "-1", "'", "true", "é"]
        )
        text = text[:at] + change + text[at + chance.randint(0, 6) :]
    errors: list[ConfigError] = []
    try:
        read(text)
    except ConfigErrors as error:
        errors = error.errors or [ConfigError("an error without one")]
    for each in errors:
        assert each.file
        assert each.line is not None
        assert each.line <= text.count("\n") + 1


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["gateway", "media", "adapters", "routes", "kind", "loopback", "ports",
                             "name", "targets", "announce", "pins", "file", "outputs"]),
            inner, max_size=4,
        ),
        max_leaves=12,
    )
)  # fmt: skip
def test_documents_of_the_wrong_shape(document: object) -> None:
    from gateway.config import _Loader

    if not isinstance(document, dict):
        return
    try:
        _Loader(Path("x.toml"), document, {}, _Registry()).load()
    except ConfigErrors:
        pass


def test_the_fixture_is_toml() -> None:
    assert tomllib.loads(GOOD)["adapters"]["lab"]["kind"] == "loopback"
